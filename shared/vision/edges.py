"""Drawings of an ordinary picture for a ControlNet to follow: white lines on black.

Sources: J. Canny, "A Computational Approach to Edge Detection", PAMI 1986; M. Fang, G. Yue, Q. Yu, "The Study on an
Application of Otsu Method in Canny Operator", 2009 (thresholds).
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput
from shared.vision.codec import Image

DRAWN: Final = ("canny", "scribble")
"""The kinds of drawing that are made here."""

LEAST_THRESHOLD: Final = 50.0
"""Of the gradient. In a picture of almost one grey, Otsu's threshold would let noise pass for edges."""

SMOOTHING_PX: Final = 1.0
"""Standard deviation of the Gaussian before Canny's edges."""

_LINE_SHARE: Final = 1 / 200
"""A scribble's line is so wide, of the picture's longer side; a fifth of that smooths the picture more."""
_STROKE_SHARE: Final = 1 / 32
"""Strokes that extend less, of the longer side, are left out of a scribble."""


def control_picture(kind: str, picture: Image, width: int, height: int, *, from_picture: bool = False) -> Image:
    """The picture that a ControlNet is given, uint8 RGB of the size asked for.

    Args:
        kind: canny, openpose, depth, scribble or seg.
        picture: uint8 RGB of any size.
        width: of the picture that is to be painted.
        height: the same.
        from_picture: it is an ordinary one, from which the drawing is to be made; else it is the drawing.

    Raises:
        InvalidInput: as `drawn`.
    """
    scaled = fitted(picture, width, height, exact_colours=kind == "seg")
    return drawn(kind, scaled) if from_picture else scaled


def fitted(picture: Image, width: int, height: int, *, exact_colours: bool = False) -> Image:
    """A picture scaled to cover width x height and cut there about its middle, so that nothing is distorted.

    Args:
        picture: uint8 RGB.
        width: pixels.
        height: pixels.
        exact_colours: no colour that is not in the picture, as a map of segments needs it (nearest neighbour).
    """
    rows, columns = picture.shape[:2]
    scale = max(width / columns, height / rows)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    if size != (columns, rows):
        smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        method = cv2.INTER_NEAREST_EXACT if exact_colours else smooth
        picture = np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def drawn(kind: str, picture: Image) -> Image:
    """A drawing of an ordinary picture; scale the picture first (`fitted`), lines would blur.

    Args:
        kind: canny or scribble.
        picture: uint8 RGB of shape (H, W, 3).

    Returns:
        uint8 RGB of the same shape, white on black.

    Raises:
        InvalidInput: nothing here draws that kind.
    """
    if kind not in DRAWN:
        raise InvalidInput(
            "controls",
            f"from_picture is set for '{kind}', and only {' and '.join(DRAWN)} are drawn from an ordinary picture here",
            f"Hand in a picture that is '{kind}' already, made by a tool for it, and set from_picture to false.",
        )
    return canny(picture) if kind == "canny" else scribble(picture)


def canny(picture: Image) -> Image:
    """Canny's edges, one pixel wide, white on black; uint8 RGB of the picture's shape.

    The upper threshold is Otsu's of the grey levels, at least 50, the lower one half of it. The picture is smoothed
    first as Canny does, which OpenCV leaves to its caller: grain would be drawn otherwise.
    """
    return _rgb(_edges(_grey(picture), SMOOTHING_PX))


def scribble(picture: Image) -> Image:
    """The main edges as smooth, thick lines, as by hand; white on black, uint8 RGB of the picture's shape."""
    longer = max(picture.shape[:2])
    line = max(3, round(longer * _LINE_SHARE))
    edges = _edges(_grey(picture), SMOOTHING_PX + line / 5)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(edges, connectivity=8)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    long = extent >= longer * _STROKE_SHARE
    long[0] = False  # what is no edge
    strokes = (long[labels] * 255).astype(np.uint8)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line, line))
    thick = cv2.dilate(strokes, pen)
    return _rgb(np.asarray(cv2.GaussianBlur(thick, (0, 0), line / 4), np.uint8))


def _grey(picture: Image) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _edges(grey: NDArray[np.uint8], smoothing_px: float) -> NDArray[np.uint8]:
    grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), smoothing_px), np.uint8)
    otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    upper = max(otsu, LEAST_THRESHOLD)
    return np.asarray(cv2.Canny(grey, upper / 2, upper), np.uint8)


def _rgb(grey: NDArray[np.uint8]) -> Image:
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
