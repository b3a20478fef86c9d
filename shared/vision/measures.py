"""How sharp and how bright a picture is."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.codec import Image

Grey: TypeAlias = NDArray[np.uint8]
"""Grey levels 0 to 255, shape (H, W)."""


@dataclass(frozen=True)
class GreyLevels:
    """Statistics of a picture's grey levels, 0 to 255."""

    darkest: float
    brightest: float
    mean: float
    spread: float
    """The standard deviation."""


def grey(image: Image) -> Grey:
    """The luma of an RGB picture (Rec. 601), uint8 (H, W)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def grey_levels(image: Image) -> GreyLevels:
    """Darkest, brightest, mean and standard deviation of a picture's grey levels."""
    levels = grey(image)
    return GreyLevels(
        darkest=float(levels.min()),
        brightest=float(levels.max()),
        mean=float(levels.mean()),
        spread=float(levels.std()),
    )


def mean_level(image: Image, outline: NDArray[np.float32]) -> float:
    """The mean grey level within the convex hull of points (N, 2), in pixels; 0 where none of it is in the picture."""
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline).astype(np.int32)), (255,))
    return float(cv2.mean(grey(image), mask)[0])


def sharpness(image: Image) -> float:
    """The variance of the Laplacian, in grey levels squared.

    It depends on the size: compare only pictures brought to the same size first.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000).
    """
    return float(cv2.Laplacian(grey(image), cv2.CV_64F).var())
