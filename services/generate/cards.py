"""Puts the elements of a scene into the camera's picture: each a textured rectangle in space, seen in perspective."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.camera import Camera, light_on
from services.generate.colour import Linear
from services.generate.living import LIVING
from services.generate.texture import Texture
from services.generate.things import PAINTERS, palette
from shared.contracts.scene import Element, Light

_PAINTERS = {**PAINTERS, **LIVING}
_NEAREST_M = 0.35
_RIGHT = {"camera": (1, 0, 0), "left": (0, 0, 1), "right": (0, 0, -1), "up": (1, 0, 0), "down": (1, 0, 0)}
_UP = {"camera": (0, 1, 0), "left": (0, 1, 0), "right": (0, 1, 0), "up": (0, 0, 1), "down": (0, 0, -1)}
_NORMAL = {
    "camera": (0.0, 0.0, -1.0),
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "up": (0.0, 1.0, 0.0),
    "down": (0.0, -1.0, 0.0),
}


@dataclass(frozen=True)
class Card:
    """A thing in its place. Colour is premultiplied linear light (H, W, 4); corners in metres, (4, 3), clockwise."""

    pixels: NDArray[np.float32]
    shining: Linear
    corners: NDArray[np.float64]

    @property
    def depth(self) -> float:
        """Metres from the camera, of its middle."""
        return float(self.corners[:, 2].mean())

    def draw(self, camera: Camera, *, mirrored: bool = False, shining: bool = False) -> NDArray[np.float32]:
        """The picture of it alone, premultiplied (H, W, 4); or of its mirror image, or of its own light."""
        corners = self.corners * [1, -1, 1] if mirrored else self.corners
        source = self.shining if shining else self.pixels
        rows, columns = source.shape[:2]
        flat = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
        warp = cv2.getPerspectiveTransform(flat, camera.project(corners))
        return np.asarray(
            cv2.warpPerspective(source, warp, (camera.columns, camera.rows), flags=cv2.INTER_LINEAR), np.float32
        )


def cards(elements: tuple[Element, ...], light: Light, seed: np.random.SeedSequence) -> list[Card]:
    """All the cards of a scene, farthest first. Each element has random numbers of its own."""
    made: list[Card] = []
    for element, own in zip(elements, seed.spawn(len(elements)), strict=True):
        made.extend(_row(element, light, np.random.Generator(np.random.PCG64(own))))
    return sorted(made, key=lambda card: -card.depth)


def _row(element: Element, light: Light, rng: np.random.Generator) -> Iterator[Card]:
    for number in range(element.count):
        place = np.array(element.at) + number * np.array(element.step)
        place = place + rng.uniform(-1, 1, 3) * [element.jitter, 0, element.jitter]
        corners = _corners(element, place)
        if corners[:, 2].min() >= _NEAREST_M:
            pixels, shining = _paint(element, light, rng)
            yield Card(pixels, shining, corners)


def _corners(element: Element, place: NDArray[np.float64]) -> NDArray[np.float64]:
    right = np.array(_RIGHT[element.facing]) * element.size[0] / 2
    up = np.array(_UP[element.facing]) * element.size[1]
    foot = place - up / 2 if element.facing in {"up", "down"} else place
    return np.array([foot - right + up, foot + right + up, foot + right, foot - right], np.float64)


def _paint(element: Element, light: Light, rng: np.random.Generator) -> tuple[NDArray[np.float32], Linear]:
    painter, usual = _PAINTERS[element.kind]
    texture = Texture(element.size[0] / element.size[1])
    painter(texture, palette(element.colours, usual), element.detail, rng)
    alpha = (texture.alpha * element.opacity)[..., None]
    glow = texture.glow[..., None] * min(1.0, element.emit)
    own = texture.colour * glow * element.emit * alpha
    reflected = texture.colour * light_on(light, _NORMAL[element.facing]) * (1 - glow) * alpha
    return np.concatenate([own + reflected, alpha], axis=2).astype(np.float32), own.astype(np.float32)
