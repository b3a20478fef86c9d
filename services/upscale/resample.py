"""Changing a picture's size and shape."""

import cv2
import numpy as np

from shared.vision.codec import Image


def crop_to_aspect(image: Image, width: int, height: int) -> Image:
    """The largest part, about the middle, that has the shape of width x height, to the nearest pixel. A view."""
    have_height, have_width = image.shape[:2]
    keep_width = min(have_width, max(round(have_height * width / height), 1))
    keep_height = min(have_height, max(round(have_width * height / width), 1))
    left, top = (have_width - keep_width) // 2, (have_height - keep_height) // 2
    return image[top : top + keep_height, left : left + keep_width]


def magnify(image: Image, scale: float) -> Image:
    """The picture enlarged in proportion by Lanczos resampling; a scale of 1 or less leaves it as it is."""
    height, width = image.shape[:2]
    return resize(image, round(width * scale), round(height * scale)) if scale > 1 else image


def resize(image: Image, width: int, height: int) -> Image:
    """The picture at exactly width x height: Lanczos (eight taps) when it grows, area averages when it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def hold_within(enlarged: Image, original: Image) -> None:
    """Clip an enlarged picture, in place, to what its original shows within a pixel of each place.

    Takes off the ringing of Lanczos and the halos of sharpening, and nothing else: between its neighbours any value is
    allowed.
    """
    height, width = enlarged.shape[:2]
    around = np.ones((3, 3), np.uint8)
    for extreme, clip in ((cv2.erode, np.maximum), (cv2.dilate, np.minimum)):
        bound = cv2.resize(extreme(original, around), (width, height), interpolation=cv2.INTER_LINEAR)
        clip(enlarged, bound, out=enlarged)
