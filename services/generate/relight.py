"""Puts a person into a scene's light: exposure, colour, direction, the glow of the scene around the outline."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.camera import direction_to_light, light_on
from services.generate.colour import LUMA, Linear, colour_of_temperature
from shared.contracts.scene import Light
from shared.vision.boxes import Box

_SKIN = 0.42
_WRAP_NEAR, _WRAP_FAR = 0.045, 0.3
"""How far light spills, in face widths."""
_GLARE_FROM = 0.5
_TO_CAMERA = (0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Match:
    """How far the person follows the scene, each 0 to 1."""

    exposure: float
    colour: float
    direction: float
    wrap: float


def relight(
    person: Linear, alpha: NDArray[np.float32], face: Box, behind: Linear, light: Light, match: Match
) -> tuple[Linear, dict[str, float]]:
    """The person's colours in the scene's light, and what was done.

    Args:
        person: linear light, (H, W, 3), in the frame.
        alpha: (H, W).
        face: in pixels of the frame.
        behind: the scene behind, linear light, (H, W, 3).
        light: of the scene.
        match: strengths.
    """
    falling = light_on(light, _TO_CAMERA)
    gain = _exposure_gain(person, face, float(falling @ LUMA), match.exposure)
    tint = (falling / (falling @ LUMA)) ** (0.6 * match.colour)
    around = _surrounding_colour(behind)
    tint = tint * around ** (0.2 * match.colour)
    tint = tint / (tint @ LUMA)
    shading = _shading(alpha, face, light, match.direction)
    lit = person * (gain * tint) * shading[..., None]
    lit = lit + _rim(alpha, face, light, match.direction) * colour_of_temperature(light.kelvin) * (0.25 + lit)
    lit = _wrap(lit, alpha, face, behind, match.wrap)
    return np.asarray(lit, np.float32), {"gain": round(gain, 3), "tint_red": round(float(tint[0]), 3),
                                          "tint_blue": round(float(tint[2]), 3)}  # fmt: skip


def _exposure_gain(person: Linear, face: Box, falling: float, strength: float) -> float:
    x, y, width, height = (round(v) for v in face)
    skin = person[max(0, y + height // 4) : y + height * 3 // 4, max(0, x + width // 5) : x + width * 4 // 5] @ LUMA
    measured = float(np.median(skin)) if skin.size else _SKIN
    wanted = _SKIN * np.clip(falling, 0.55, 1.3)
    return float(np.clip((wanted / max(measured, 0.02)) ** (0.5 * strength), 0.82, 1.35))


def _surrounding_colour(behind: Linear) -> Linear:
    mean = behind.reshape(-1, 3).mean(axis=0) + 1e-3
    return np.asarray(np.clip(mean / (mean @ LUMA), 0.4, 2.5), np.float32)


def _shading(alpha: NDArray[np.float32], face: Box, light: Light, strength: float) -> NDArray[np.float32]:
    """How much more or less light falls on each place than on one that faces the camera.

    The body's shape is guessed by inflating its outline, the head's as an ellipsoid.
    """
    across, down = _normals(alpha, face)
    length = np.sqrt(1 + across**2 + down**2)
    direction = direction_to_light(light)
    facing = (across * direction[0] - down * direction[1] - direction[2]) / length
    soft = np.clip(0.5 + 0.5 * facing, 0, 1) ** 1.5
    straight = (0.5 - 0.5 * direction[2]) ** 1.5
    fill = light.ambient + 0.25 * light.key + 0.05
    relative = (fill + light.key * soft) / (fill + light.key * straight)
    return np.asarray(np.clip(relative ** (1.4 * strength), 0.5, 1.6), np.float32)


def _normals(alpha: NDArray[np.float32], face: Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slope of the surface to the right and downwards, (H, W) each: positive where it turns that way."""
    rows, columns = alpha.shape
    x, y, width, height = face
    factor = 8
    small = cv2.resize(alpha, (max(2, columns // factor), max(2, rows // factor)), interpolation=cv2.INTER_AREA)
    across, down = np.zeros(small.shape, np.float32), np.zeros(small.shape, np.float32)
    for share, weight in ((0.22, 1.0), (0.6, 1.6)):
        sigma = share * width / factor
        smooth = cv2.GaussianBlur(small, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        across = across - weight * sigma * cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
        down = down - weight * sigma * cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    across_full = cv2.resize(across, (columns, rows), interpolation=cv2.INTER_CUBIC)
    down_full = cv2.resize(down, (columns, rows), interpolation=cv2.INTER_CUBIC)
    u = (np.arange(columns, dtype=np.float32)[None, :] - (x + width / 2)) / (0.62 * width)
    v = (np.arange(rows, dtype=np.float32)[:, None] - (y + height / 2)) / (0.72 * height)
    head = np.exp(-((u**2 + v**2) ** 2))
    return np.asarray(across_full + 1.3 * u * head, np.float32), np.asarray(down_full + 0.7 * v * head, np.float32)


def _rim(alpha: NDArray[np.float32], face: Box, light: Light, strength: float) -> NDArray[np.float32]:
    """A line of light along the outline, on the side of a key light that comes from beside or behind, (H, W, 1)."""
    direction = direction_to_light(light)
    beside = np.clip(direction[2] + 0.45, 0, 1) * light.key * strength
    sigma = max(1.0, 0.035 * face[2])
    smooth = cv2.GaussianBlur(alpha, (0, 0), sigma)
    outward = -cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8) * direction[0]
    outward += cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8) * direction[1]
    return np.asarray((np.clip(outward * sigma, 0, 1) * beside * 1.3)[..., None], np.float32)


def _wrap(lit: Linear, alpha: NDArray[np.float32], face: Box, behind: Linear, strength: float) -> Linear:
    """Light of the scene spilling over the outline, as in a lens: all of it a little, what is bright further."""
    rows, columns = alpha.shape
    size = (max(2, columns // 4), max(2, rows // 4))
    outside = 1 - cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    seen = cv2.resize(behind, size, interpolation=cv2.INTER_AREA) * outside[..., None]
    near = cv2.GaussianBlur(seen, (0, 0), _WRAP_NEAR * face[2] / 4, borderType=cv2.BORDER_REPLICATE)
    glare = np.maximum(seen - _GLARE_FROM, 0)
    far = cv2.GaussianBlur(glare, (0, 0), _WRAP_FAR * face[2] / 4, borderType=cv2.BORDER_REPLICATE)
    spill = cv2.resize(0.22 * near + 0.5 * far, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(lit + strength * spill * (1 - 0.5 * np.clip(lit, 0, 1)), np.float32)
