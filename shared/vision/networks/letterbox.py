"""A picture fitted into a detector's input with grey at its sides, and boxes brought back from there.

Source: ultralytics' LetterBox and scale_boxes, to the pixel: their rounding decides where the detector sees an edge.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.codec import Image

GREY = 114
"""The level of the padding, in all three channels."""


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in a detector's input.

    Attributes:
        picture: height and width of the picture.
        inner: height and width that it was resized to.
        outer: height and width of the input.
        top: rows of padding above it.
        left: columns of padding to its left.
    """

    picture: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]
    top: int
    left: int

    def undo(self, corners: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of the input in the picture's pixels, cut off at its edges.

        Args:
            corners: [N, 4], left, top, right, bottom in the input's pixels.

        Returns:
            [N, 4], the same in the picture's pixels.
        """
        gain_y, gain_x = (inner / picture for inner, picture in zip(self.inner, self.picture, strict=True))
        gains = np.array([gain_x, gain_y, gain_x, gain_y], np.float32)
        padding = np.array([self.left, self.top, self.left, self.top], np.float32)
        height, width = self.picture
        return np.clip((corners - padding) / gains, 0, np.array([width, height, width, height], np.float32))


def place(picture: tuple[int, int], outer: tuple[int, int], stride: int | None = None) -> Placement:
    """Where a picture goes: as large as it fits, in the middle; the odd pixel of padding below and to the right.

    Args:
        picture: its height and width.
        outer: height and width of the input.
        stride: where it is given the padding is cut to less than it, so that the input becomes the smallest rectangle
            that the network takes; `outer` must be multiples of it.
    """
    ratio = min(outer[0] / picture[0], outer[1] / picture[1])
    height, width = (max(round(side * ratio), 1) for side in picture)
    spare_y, spare_x = outer[0] - height, outer[1] - width
    if stride is not None:
        spare_y, spare_x = spare_y % stride, spare_x % stride
    return Placement(
        picture=picture,
        inner=(height, width),
        outer=(height + spare_y, width + spare_x),
        top=round(spare_y / 2 - 0.1),
        left=round(spare_x / 2 - 0.1),
    )


def letterbox(image: Image, placement: Placement) -> Image:
    """The input that a placement describes: uint8 RGB, `placement.outer` in size."""
    height, width = placement.inner
    if placement.inner != placement.picture:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    padded = np.full((*placement.outer, 3), GREY, np.uint8)
    padded[placement.top : placement.top + height, placement.left : placement.left + width] = image
    return padded
