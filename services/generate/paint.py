"""Paints a defocused scene from its description: surroundings, things at their depths, bokeh, bloom, grading."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.camera import Camera
from services.generate.cards import Card, cards
from services.generate.colour import LUMA, Linear, colour_of_temperature, shoulder
from services.generate.defocus import blur_share, disc_blur, disc_blur_by_map
from services.generate.shell import surroundings
from shared.contracts.scene import Backdrop, Finish, Light

_WORKING_PX = 512
_MARGIN = 0.07
_SHIFT_M = 0.12
_SAME_BLUR = 0.15
_SPILL = 0.9


@dataclass(frozen=True)
class Scene:
    """A painted scene, (height, width, …): what is behind the person and what is in front.

    Both in linear light, graded but without vignette and grain. `front` is premultiplied, RGBA.
    """

    behind: Linear
    front: NDArray[np.float32]
    light: Light


def paint(backdrop: Backdrop, width: int, height: int, seed: int) -> Scene:
    """Paint a scene. The seed moves the camera, the light and the things a little."""
    root = np.random.SeedSequence(seed)
    mood, things = root.spawn(2)
    rng = np.random.Generator(np.random.PCG64(mood))
    light = _stray(backdrop.light, rng)
    camera = _camera(backdrop, width, height, rng.uniform(-_SHIFT_M, _SHIFT_M))
    exposure = backdrop.finish.exposure * float(np.exp(rng.normal(0, 0.03)))
    there = cards(backdrop.elements, light, things)
    focus = backdrop.lens.focus_m
    behind = _behind(backdrop, light, camera, [card for card in there if card.depth >= focus])
    front = _stack(
        np.zeros((camera.rows, camera.columns, 4), np.float32), [c for c in there if c.depth < focus], camera
    )
    graded = grade(behind * exposure, backdrop.finish, light)
    colour, alpha = front[..., :3] * exposure, front[..., 3:]
    bare = shoulder(colour / np.maximum(alpha, 1e-4)) * alpha
    return Scene(
        _to_size(graded, camera, width, height),
        _to_size(np.concatenate([bare, alpha], axis=2).astype(np.float32), camera, width, height),
        light,
    )


def grade(picture: Linear, finish: Finish, light: Light) -> Linear:
    """Bloom, saturation and the highlights' shoulder."""
    glow = np.maximum(picture - 0.7, 0)
    wide, narrow = picture.shape[1] * 0.09, picture.shape[1] * 0.025
    bloom = _soft(glow, wide) * 0.6 + _soft(glow, narrow) * 0.4
    picture = picture + finish.bloom * bloom * (0.6 + 0.4 * colour_of_temperature(light.kelvin))
    grey = (picture @ LUMA)[..., None]
    picture = grey + finish.saturation * (picture - grey)
    return shoulder(np.maximum(picture, 0).astype(np.float32))


def _behind(backdrop: Backdrop, light: Light, camera: Camera, there: list[Card]) -> Linear:
    around = surroundings(backdrop.shell, light, camera)
    colour = around.colour * (1 + _SPILL * _spill(there, camera))
    if around.mirror.any():
        reflection = np.zeros((camera.rows, camera.columns, 4), np.float32)
        for card in there:
            _lay(reflection, card.draw(camera, mirrored=True))
        reflection = np.asarray(cv2.blur(reflection, (3, max(3, camera.rows // 20))), np.float32)
        share = around.mirror[..., None]
        colour = colour * (1 - share * reflection[..., 3:]) + reflection[..., :3] * share
    veil = (backdrop.finish.haze * np.clip(around.depth / backdrop.shell.depth, 0, 1))[..., None]
    air = light.ambient * colour_of_temperature(light.ambient_kelvin)
    colour = (colour * (1 - veil) + air * veil).astype(np.float32)
    picture = disc_blur_by_map(colour, blur_share(camera.lens, around.depth) * camera.width_px)
    opaque = np.ones((camera.rows, camera.columns, 1), np.float32)
    haze = backdrop.finish.haze
    hazed = [_veiled(card, haze * min(1.0, card.depth / backdrop.shell.depth), air) for card in there]
    return _stack(np.concatenate([picture, opaque], axis=2), hazed, camera)[..., :3]


def _stack(picture: NDArray[np.float32], there: list[Card], camera: Camera) -> NDArray[np.float32]:
    """Lay the cards over a premultiplied picture, farthest first, those of like defocus blurred together."""
    layer = np.zeros_like(picture)
    blur, empty = 0.0, True
    for card in there:
        own = float(blur_share(camera.lens, card.depth)) * camera.width_px
        if not empty and abs(own - blur) > max(1.0, _SAME_BLUR * blur):
            picture = _over(disc_blur(layer, blur), picture)
            layer, empty = np.zeros_like(picture), True
        if empty:
            blur, empty = own, False
        _lay(layer, card.draw(camera))
    return picture if empty else _over(disc_blur(layer, blur), picture)


def _spill(there: list[Card], camera: Camera) -> Linear:
    """How much light of the shining things falls around them."""
    small = replace(
        camera, rows=camera.rows // 8, columns=camera.columns // 8, width_px=camera.width_px / 8,
        horizon_px=camera.horizon_px / 8,
    )  # fmt: skip
    light = np.zeros((small.rows, small.columns, 3), np.float32)
    for card in there:
        if card.shining.any():
            light += card.draw(small, shining=True)
    light = np.asarray(cv2.GaussianBlur(np.minimum(light, 6), (0, 0), small.width_px * 0.14), np.float32)
    return np.asarray(cv2.resize(light, (camera.columns, camera.rows), interpolation=cv2.INTER_CUBIC), np.float32)


def _veiled(card: Card, share: float, air: Linear) -> Card:
    pixels = card.pixels.copy()
    pixels[..., :3] = pixels[..., :3] * (1 - share) + air * share * pixels[..., 3:]
    return replace(card, pixels=pixels)


def _stray(light: Light, rng: np.random.Generator) -> Light:
    return light.model_copy(
        update={
            "azimuth_deg": light.azimuth_deg + float(rng.uniform(-6, 6)),
            "kelvin": light.kelvin * float(rng.uniform(0.97, 1.03)),
            "key": light.key * float(rng.uniform(0.95, 1.05)),
        }
    )


def _camera(backdrop: Backdrop, width: int, height: int, shift: float) -> Camera:
    """The working canvas: about 512 pixels on its shorter side, and a margin for what defocus carries in."""
    factor = min(1.0, _WORKING_PX / min(width, height))
    margin = round(_MARGIN * width * factor)
    rows, columns = round(height * factor) + 2 * margin, round(width * factor) + 2 * margin
    horizon = backdrop.lens.horizon * height * factor + margin
    return Camera(backdrop.lens, rows, columns, width * factor, horizon, shift)


def _to_size(picture: NDArray[np.float32], camera: Camera, width: int, height: int) -> NDArray[np.float32]:
    margin = round((camera.columns - camera.width_px) / 2)
    inner = picture[margin : camera.rows - margin, margin : camera.columns - margin]
    if inner.shape[:2] == (height, width):
        return inner
    return np.maximum(cv2.resize(inner, (width, height), interpolation=cv2.INTER_CUBIC), 0)


def _lay(layer: NDArray[np.float32], top: NDArray[np.float32]) -> None:
    layer *= 1 - top[..., 3:]
    layer += top


def _over(top: NDArray[np.float32], bottom: NDArray[np.float32]) -> NDArray[np.float32]:
    return top + bottom * (1 - top[..., 3:])


def _soft(picture: Linear, sigma: float) -> Linear:
    """A wide Gaussian, taken on a quarter of the pixels each way."""
    rows, columns = picture.shape[:2]
    small = cv2.resize(picture, (columns // 4, rows // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)
