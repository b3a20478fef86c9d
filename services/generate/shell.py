"""What closes a scene off: walls, floor and ceiling, the open air, or a studio's paper."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.camera import Camera, light_on
from services.generate.colour import Linear, linear_of
from shared.contracts.scene import Light, Shell

_DADO_M = 1.1
_CORNER_M = 0.45
_CORNER_SHADE = 0.38
_FAR_M = 200.0


@dataclass(frozen=True)
class Surroundings:
    """Linear light (H, W, 3), depth in metres (H, W), and where and how much (0 to 1) the floor mirrors, (H, W)."""

    colour: Linear
    depth: NDArray[np.float64]
    mirror: NDArray[np.float32]


def surroundings(shell: Shell, light: Light, camera: Camera) -> Surroundings:
    """Paint the shell, sharp."""
    if shell.kind == "studio":
        return _studio(shell, light, camera)
    if shell.kind == "outdoor":
        return _outdoor(shell, light, camera)
    across, up = camera.rays()
    eye = camera.lens.height_m
    colour, depth, floor = _room(shell, light, camera.shift_m, eye, across, up)
    mirrored, _, _ = _room(shell, light, camera.shift_m, -eye, across, -up)
    mirrored = np.asarray(cv2.blur(mirrored, (3, max(3, camera.rows // 24))), np.float32)
    grazing = 1 - np.abs(up) / np.sqrt(1 + across**2 + up**2)
    mirror = np.where(floor, shell.gloss * (0.15 + 0.85 * grazing**3), 0).astype(np.float32)
    share = mirror[..., None]
    return Surroundings(np.asarray(colour * (1 - share) + mirrored * share, np.float32), depth, mirror)


def _room(
    shell: Shell, light: Light, aside: float, eye: float, across: NDArray[np.float64], up: NDArray[np.float64]
) -> tuple[Linear, NDArray[np.float64], NDArray[np.bool_]]:
    """Colour, depth and whether it is floor where each ray ends. An eye below the floor sees a mirror."""
    shape = (up.shape[0], across.shape[1])
    with np.errstate(divide="ignore"):
        to_side = np.where(across < 0, -shell.left - aside, shell.right - aside) / across
        to_level = np.where(up < 0, -eye, shell.height - eye) / up
    to_side = np.broadcast_to(np.where(to_side > 0, to_side, np.inf), shape)
    to_level = np.broadcast_to(np.where(to_level > 0, to_level, np.inf), shape)
    depth = np.minimum(np.minimum(to_side, to_level), shell.depth)
    x, y = aside + across * depth, eye + up * depth
    on_back, on_side = depth >= shell.depth, to_side <= to_level
    left = np.broadcast_to(across < 0, shape)
    down = np.broadcast_to(up < 0, shape)
    surfaces = (
        (on_back, shell.back, (0.0, 0.0, -1.0)),
        (~on_back & on_side & left, shell.wall, (1.0, 0.0, 0.0)),
        (~on_back & on_side & ~left, shell.wall, (-1.0, 0.0, 0.0)),
        (~on_back & ~on_side & down, shell.floor, (0.0, 1.0, 0.0)),
        (~on_back & ~on_side & ~down, shell.ceiling, (0.0, -1.0, 0.0)),
    )
    colour = np.zeros((*shape, 3), np.float32)
    for where, paint, normal in surfaces:
        colour[where] = linear_of(paint) * light_on(light, normal)
        if shell.dado and normal[1] == 0:
            colour[where & (y < _DADO_M)] = linear_of(shell.dado) * light_on(light, normal)
    for distance in (x + shell.left, shell.right - x, y, shell.height - y, shell.depth - depth):
        near = np.where(distance > 1e-6, np.exp(-np.maximum(distance, 0) / _CORNER_M), 0)
        colour *= (1 - _CORNER_SHADE * near)[..., None].astype(np.float32)
    return colour, depth, ~on_back & ~on_side & down


def _outdoor(shell: Shell, light: Light, camera: Camera) -> Surroundings:
    across, up = camera.rays()
    shape = (camera.rows, camera.columns)
    with np.errstate(divide="ignore"):
        depth = np.broadcast_to(np.where(up < 0, np.minimum(-camera.lens.height_m / up, _FAR_M), _FAR_M), shape)
    height = np.clip(np.broadcast_to(up, shape) / 0.5, 0, 1)[..., None]
    toward = np.clip(0.5 + np.sign(light.azimuth_deg) * np.broadcast_to(across, shape), 0, 1)[..., None]
    sky = linear_of(shell.back) * (1 - np.sqrt(height)) + linear_of(shell.ceiling) * np.sqrt(height)
    sky = sky * (0.85 + 0.4 * toward)
    ground = linear_of(shell.floor) * light_on(light, (0.0, 1.0, 0.0))
    far = np.clip(depth / 60, 0, 1)[..., None]
    ground = ground * (1 - far) + linear_of(shell.back) * 0.7 * far
    below = (np.broadcast_to(up, shape) < 0)[..., None]
    return Surroundings(np.where(below, ground, sky).astype(np.float32), depth, np.zeros(shape, np.float32))


def _studio(shell: Shell, light: Light, camera: Camera) -> Surroundings:
    """Seamless paper, lit by a soft spot a little towards the key light."""
    shape = (camera.rows, camera.columns)
    across = (np.arange(camera.columns) + 0.5) / camera.columns - 0.5
    down = (np.arange(camera.rows) + 0.5) / camera.rows - 0.42
    spot = np.exp(
        -(((across[None, :] - 0.18 * np.sin(np.deg2rad(light.azimuth_deg))) / 0.46) ** 2) - (down[:, None] / 0.5) ** 2
    )
    paper = linear_of(shell.back) * (1 - spot[..., None]) + linear_of(shell.ceiling) * spot[..., None]
    paper = paper * light_on(light, (0.0, 0.0, -1.0))
    return Surroundings(paper.astype(np.float32), np.full(shape, shell.depth), np.zeros(shape, np.float32))
