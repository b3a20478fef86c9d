"""Edge-preserving and multi-scale filters on single-channel float pictures."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.float32]
"""One channel, float32, shape (height, width)."""


def guided(plane: Plane, radius_px: int, epsilon: float) -> Plane:
    """Smooth a plane by itself, keeping edges whose variance is well above `epsilon` (the plane's unit, squared).

    Source: He, Sun, Tang, "Guided Image Filtering", PAMI 2013, with the picture as its own guide.
    """
    size = (2 * radius_px + 1, 2 * radius_px + 1)
    mean = cv2.blur(plane, size)
    variance = np.maximum(cv2.blur(plane * plane, size) - mean * mean, 0)
    slope = variance / (variance + epsilon)
    offset = mean - slope * mean
    return np.asarray(cv2.blur(slope, size) * plane + cv2.blur(offset, size), np.float32)


def gaussian(plane: Plane, sigma_px: float) -> Plane:
    """Gaussian blur. A sigma below a fifth of a pixel leaves the plane as it is."""
    if sigma_px < 0.2:
        return plane
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma_px), np.float32)


def within_neighbourhood(sharpened: Plane, original: Plane, radius_px: int) -> Plane:
    """Hold a sharpened plane between the original's local minimum and maximum, so that no edge gains a halo."""
    window = np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)
    return np.clip(sharpened, cv2.erode(original, window), cv2.dilate(original, window))
