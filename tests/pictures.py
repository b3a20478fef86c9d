"""The astronaut at any size, a drawn hand, and how alike two pictures are."""

from functools import cache

import cv2
import numpy as np

from shared.vision.codec import Image
from tests import photos

SKIN, SHADE, NAIL, WALL = (224, 172, 140), (190, 135, 105), (240, 205, 190), (150, 165, 180)


def astronaut(side_px: int = 512) -> Image:
    """The astronaut's photo at any size; her face is 93 pixels wide at 512."""
    photo = photos.astronaut()
    if side_px == photo.shape[0]:
        return photo
    return np.asarray(cv2.resize(photo, (side_px, side_px), interpolation=cv2.INTER_CUBIC), np.uint8)


def rolled(image: Image, degrees: float, centre: tuple[float, float]) -> Image:
    """The picture turned counter-clockwise about a point."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


@cache
def _hand(side_px: int) -> Image:
    fine = 4 * side_px
    canvas = np.full((fine, fine, 3), WALL, np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return int(x * fine), int(y * fine)

    def limb(start: tuple[float, float], end: tuple[float, float], width: float, colour: tuple[int, ...]) -> None:
        cv2.line(canvas, at(*start), at(*end), colour, int(width * fine), cv2.LINE_AA)

    def palm() -> None:
        cv2.ellipse(canvas, at(0.5, 0.64), at(0.135, 0.15), 0, 0, 360, SKIN, -1, cv2.LINE_AA)

    limb((0.5, 1.0), (0.5, 0.75), 0.17, SKIN)
    palm()
    thumb = ((0.40, 0.70), (0.27, 0.52))
    fingers = (
        ((0.40, 0.56), (0.33, 0.30)),
        ((0.465, 0.52), (0.445, 0.22)),
        ((0.535, 0.52), (0.55, 0.23)),
        ((0.60, 0.57), (0.655, 0.33)),
    )
    for root, tip in (*fingers, thumb):
        limb(root, tip, 0.066, SHADE)
        limb(root, tip, 0.058, SKIN)
    for _, (x, y) in fingers:
        cv2.ellipse(canvas, at(x, y - 0.005), at(0.018, 0.022), 0, 0, 360, NAIL, -1, cv2.LINE_AA)
    palm()
    for start, end in (((0.43, 0.60), (0.56, 0.63)), ((0.43, 0.66), (0.55, 0.69)), ((0.45, 0.57), (0.47, 0.75))):
        limb(start, end, 0.005, SHADE)
    small = cv2.resize(canvas, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), side_px / 256), np.uint8)


def drawn_hand(side_px: int = 512) -> Image:
    """An open left hand, drawn well enough for MediaPipe to take it for one."""
    return _hand(side_px).copy()


def noisy(image: Image, deviation: float, seed: int = 0) -> Image:
    """The picture with Gaussian noise, in grey levels."""
    noise = np.random.Generator(np.random.PCG64(seed)).normal(0.0, deviation, image.shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)


def psnr(a: Image, b: Image) -> float:
    """Peak signal to noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def difference(a: Image, b: Image) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(np.float64) - b).mean())
