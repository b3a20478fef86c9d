"""How sharp and how bright a picture is."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.codec import Image

Grey: TypeAlias = NDArray[np.uint8]
"""Grey levels 0 to 255, shape (H, W)."""

_LINES = 1024
_NEIGHBOURS = 8
_CALM = 0.25
_MOST_STEP = 8


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


def clipped_share(image: Image) -> float:
    """The share of an RGB picture's pixels that are wholly black (0, 0, 0) or wholly white (255, 255, 255), 0 to 1."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    black, white = (red | green | blue) == 0, (red & green & blue) == 255
    return float((np.count_nonzero(black) + np.count_nonzero(white)) / black.size)


def blockiness(image: Image, period_px: int) -> float:
    """How much larger the steps between pixels are at the edges of square blocks than elsewhere.

    The mean absolute step of the grey levels from each column to the next where a block begins, over that elsewhere;
    the same for rows, and the larger of the two. About 1 where there are no blocks; 1 for a picture without any step or
    of fewer than three blocks' length. Blocks are counted from the picture's upper left corner.

    Source: Wang, Bovik and Evans, Blind measurement of blocking artifacts in images (2000), in the pixels themselves.
    """
    levels = grey(image)
    return max(_at_edges(_steps(levels, axis).mean(axis=1 - axis), period_px) for axis in (0, 1))


def seam(image: Image) -> float:
    """How much the strongest straight line through the whole picture stands out, upright or level.

    For each column the mean step of the grey levels to the next one, in its sign (each step at most eight levels, so
    that no few strong edges count for many), over the mean of those of the eight columns on either side, both plus a
    quarter of a level; the largest of these, and the same for rows. An edge that is everywhere the same way, as that of
    a tile, adds up, and texture does not. At least 1, and 1 for a picture of fewer than 18 columns and rows.
    """
    levels = grey(image)
    return max(1.0, *(_stands_out(_trends(levels, axis)) for axis in (0, 1)))


def _steps(levels: Grey, axis: int) -> Grey:
    """The absolute steps to the next pixel down (axis 0) or across (1): one fewer than there are pixels that way."""
    before, after = (levels[:-1], levels[1:]) if axis == 0 else (levels[:, :-1], levels[:, 1:])
    return np.asarray(np.maximum(before, after) - np.minimum(before, after), np.uint8)


def _at_edges(steps: NDArray[np.floating[Any]], period_px: int) -> float:
    """The mean of every period_px-th value over the mean of the others."""
    at_edge = np.arange(1, steps.size + 1) % period_px == 0
    if at_edge.sum() < 2:
        return 1.0
    within = float(steps[~at_edge].mean())
    return float(steps[at_edge].mean()) / within if within > 0 else 1.0


def _trends(levels: Grey, axis: int) -> NDArray[np.float64]:
    """The mean clipped steps along an axis, without their signs, from about a thousand lines of the picture."""
    every = max(1, levels.shape[1 - axis] // _LINES)
    thinned = (levels[:, ::every] if axis == 0 else levels[::every]).astype(np.int16)
    steps = np.clip(np.diff(thinned, axis=axis), -_MOST_STEP, _MOST_STEP)
    return np.asarray(np.abs(steps.mean(axis=1 - axis)), np.float64)


def _stands_out(trends: NDArray[np.float64]) -> float:
    """The largest of the values over the mean of its neighbours, both plus a quarter of a level."""
    if trends.size <= 2 * _NEIGHBOURS:
        return 1.0
    about = np.ones(2 * _NEIGHBOURS + 1)
    about[_NEIGHBOURS] = 0.0
    neighbours = np.convolve(np.pad(trends, _NEIGHBOURS, mode="reflect"), about / about.sum(), "valid")
    return float(((trends + _CALM) / (neighbours + _CALM)).max())
