"""Joins person and scene in one picture: cut-out, placed, lit, laid over, finished."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from services.generate.colour import to_linear, to_srgb
from services.generate.extend import Missing, extend
from services.generate.framing import Placement, cuts, place
from services.generate.paint import Scene
from services.generate.relight import Match, relight
from shared.contracts.scene import Finish, Framing
from shared.vision.boxes import Box
from shared.vision.codec import Image
from shared.vision.matting import Matte


@dataclass(frozen=True)
class Composed:
    """The picture (uint8 RGB) and what was chosen on the way."""

    image: Image
    facts: dict[str, JsonValue]


def compose(
    cut_out: Matte,
    face: Box,
    scene: Scene,
    framing: Framing,
    finish: Finish,
    match: Match,
    restoration: float,
    seed: int,
) -> Composed:
    """Lay the person over the scene.

    Args:
        cut_out: the person in the photo's pixels.
        face: x, y, width, height in the photo's pixels.
        scene: painted at the size of the picture to be made.
        framing: where the face should go.
        finish: vignette and grain.
        match: how far the person follows the scene's light.
        restoration: 0 to 1, sharpening after the photo was enlarged.
        seed: of the grain.
    """
    height, width = scene.behind.shape[:2]
    spot = place(cut_out.alpha, face, framing, width, height)
    missing = _missing(cut_out.alpha, spot, width, height)
    colour, alpha = extend(cut_out.colour, cut_out.alpha, face, missing)
    framed_face = (
        face[0] * spot.scale + spot.x,
        face[1] * spot.scale + spot.y,
        face[2] * spot.scale,
        face[3] * spot.scale,
    )
    person, opacity = _laid(colour, alpha, spot.moved(missing.left), width, height, restoration)
    lit, done = relight(to_linear(person), opacity, framed_face, scene.behind, scene.light, match)
    share = opacity[..., None]
    picture = np.asarray(to_srgb(lit) * share + to_srgb(scene.behind) * (1 - share), np.float32)
    if scene.front[..., 3].any():
        veil = scene.front[..., 3:]
        bare = to_srgb(scene.front[..., :3] / np.maximum(veil, 1e-4))
        picture = np.asarray(bare * veil + picture * (1 - veil), np.float32)
    facts: dict[str, JsonValue] = {
        "face_width": round(spot.face_width, 4),
        "centre_x": round(spot.centre_x, 4),
        "centre_y": round(spot.centre_y, 4),
        "photo_scale": round(spot.scale, 4),
        "extended_px": {
            "left": round(missing.left * spot.scale),
            "right": round(missing.right * spot.scale),
            "bottom": round(missing.bottom * spot.scale),
        },
        "light": {**done},
    }
    return Composed(_finished(picture, finish, seed), facts)


def _missing(alpha: NDArray[np.float32], spot: Placement, width: int, height: int) -> Missing:
    """What the frame shows beyond the borders that cut the person."""
    rows, columns = alpha.shape
    visible = alpha[: max(1, round((height - spot.y) / spot.scale))]
    found = cuts(visible)
    left, right, bottom = spot.beyond((columns, rows), (width, height))
    below = bottom if found.bottom else 0
    return Missing(left if found.left or below else 0, right if found.right or below else 0, below)


def _laid(
    colour: Image, alpha: NDArray[np.float32], spot: Placement, width: int, height: int, restoration: float
) -> tuple[Image, NDArray[np.float32]]:
    enlarging = spot.scale > 1
    person = spot.lay(colour.astype(np.float32), width, height, cv2.INTER_LANCZOS4 if enlarging else cv2.INTER_AREA)
    opacity = np.clip(spot.lay(alpha, width, height, cv2.INTER_CUBIC), 0, 1)
    if enlarging and restoration:
        soft = cv2.GaussianBlur(person, (0, 0), 0.75 * spot.scale)
        person = person + 0.8 * restoration * np.clip(person - soft, -12, 12)
        opacity = np.clip((opacity - 0.5) * (1 + 0.25 * restoration) + 0.5, 0, 1)
    return np.rint(np.clip(person, 0, 255)).astype(np.uint8), opacity.astype(np.float32)


def _finished(picture: NDArray[np.float32], finish: Finish, seed: int) -> Image:
    """Vignette and grain over all of it, so that person and scene share one film."""
    height, width = picture.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    fall = 1 - 0.42 * finish.vignette * np.clip((x**2 + 0.9 * y**2) / 1.9, 0, 1) ** 1.4
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 7])))
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise = 0.6 * noise + 1.1 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    toned = picture * fall[..., None]
    strength = finish.grain * (0.55 + 0.9 * np.clip(1 - np.abs(toned.mean(axis=2) / 255 - 0.45) * 1.6, 0, 1))
    return np.asarray(np.rint(np.clip(toned + (noise * strength)[..., None], 0, 255)), np.uint8)
