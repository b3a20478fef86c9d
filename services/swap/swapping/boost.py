"""Pixel boost: a face larger than the network's, as N x N of the network's size that interleave.

Each part takes every N-th pixel of every N-th row, so that each shows the whole face and the network is at home with
it. Source: facefusion, processors/pixel_boost.py.
"""

from collections.abc import Sequence

import numpy as np

from shared.vision.codec import Image


def parted(crop: Image, side_px: int) -> list[Image]:
    """The N² parts of `side_px` of a crop of N times that, those of the first row first."""
    times = crop.shape[0] // side_px
    parts = crop.reshape(side_px, times, side_px, times, 3).transpose(1, 3, 0, 2, 4)
    return [np.ascontiguousarray(part) for part in parts.reshape(times * times, side_px, side_px, 3)]


def joined(parts: Sequence[Image]) -> Image:
    """The crop that parts are of; undoes `parted`."""
    times, side_px = round(len(parts) ** 0.5), parts[0].shape[0]
    crop = np.stack(parts).reshape(times, times, side_px, side_px, 3).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(crop.reshape(times * side_px, times * side_px, 3))
