"""Arithmetic on boxes (x, y, width, height) in pixels."""

from typing import TypeAlias

import cv2
import numpy as np

from shared.vision.codec import Image

Box: TypeAlias = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height; pixels of the picture."""


def centre(box: Box) -> tuple[float, float]:
    """The middle of a box."""
    x, y, width, height = box
    return x + width / 2, y + height / 2


def covers(box: Box, point: tuple[float, float]) -> bool:
    """Whether a point lies in a box."""
    x, y, width, height = box
    return x <= point[0] <= x + width and y <= point[1] <= y + height


def coincide(a: Box, b: Box) -> bool:
    """Whether two boxes are of one and the same thing: either's middle lies in the other."""
    return covers(a, centre(b)) or covers(b, centre(a))


def square_around(box: Box, scale: float) -> Box:
    """The square about a box's middle, `scale` times as wide as the box's longer side."""
    side = scale * max(box[2], box[3])
    x, y = centre(box)
    return x - side / 2, y - side / 2, side, side


def shrunk(image: Image, longest_px: int) -> tuple[Image, float]:
    """The picture reduced by area averaging so that its longer side is at most `longest_px`, and the factor (<= 1)."""
    height, width = image.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1.0:
        return image, 1.0
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), factor


def crop_square(image: Image, square: Box, side_px: int) -> Image:
    """The square region of a picture as `side_px` x `side_px`; what lies outside the picture repeats its edge."""
    height, width = image.shape[:2]
    x0, y0 = round(square[0]), round(square[1])
    side = max(1, round(square[2]))
    x1, y1 = x0 + side, y0 + side
    inside = image[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
    outside = (max(0, -y0), max(0, y1 - height), max(0, -x0), max(0, x1 - width))
    if any(outside):
        inside = np.asarray(cv2.copyMakeBorder(inside, *outside, cv2.BORDER_REPLICATE), np.uint8)
    interpolation = cv2.INTER_AREA if side > side_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(inside, (side_px, side_px), interpolation=interpolation), np.uint8)
