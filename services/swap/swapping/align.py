"""A picture's face brought upright to where the swappers expect it: two published ways, which differ a little."""

import warnings
from typing import Any, Literal

import cv2
import numpy as np
from insightface.utils.face_align import estimate_norm
from numpy.typing import NDArray

from shared.vision.codec import Image

Alignment = Literal["insightface", "facefusion"]

Matrix = NDArray[np.float64]
"""(2, 3), from the picture's pixels to the crop's."""

Points = NDArray[np.floating[Any]]
"""(5, 2): eyes, nose and mouth corners in pixels."""

TEMPLATE = np.array(
    [
        (0.36167656, 0.40387734),
        (0.63696719, 0.40235469),
        (0.50019687, 0.56044219),
        (0.38710391, 0.72160547),
        (0.61507734, 0.72034453),
    ]
)
"""Where they come to lie, shares of the crop's side: facefusion's `arcface_128`. insightface's at 128 pixels is the
same to the eighth decimal: ArcFace's template for 112 pixels, 8 pixels to the right and none down."""

OUTLIER_PX = 100
"""facefusion's bound, in pixels of the crop, beyond which a point does not count."""


def matrix_of(points: Points, side_px: int, alignment: Alignment) -> Matrix | None:
    """What brings five points onto the template, a turn, a scale and a shift; None where they span no face.

    Args:
        points: of the face.
        side_px: of the crop; a multiple of 128.
        alignment: `insightface` fits by least squares (Umeyama 1991; skimage's SimilarityTransform), `facefusion` by
            RANSAC (OpenCV).
    """
    if not np.isfinite(points).all() or float(np.ptp(points, axis=0).max()) < 1.0:
        return None
    if alignment == "facefusion":
        matrix, _ = cv2.estimateAffinePartial2D(
            points.astype(np.float32), TEMPLATE * side_px, method=cv2.RANSAC, ransacReprojThreshold=OUTLIER_PX
        )
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)  # in insightface
            matrix = estimate_norm(points.astype(np.float32), side_px)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        return None
    return np.asarray(matrix, np.float64)


def cropped(image: Image, matrix: Matrix, side_px: int, alignment: Alignment) -> Image:
    """The face upright in a square. What lies beyond the picture is black, or with facefusion its edge repeated."""
    border = cv2.BORDER_REPLICATE if alignment == "facefusion" else cv2.BORDER_CONSTANT
    return np.asarray(cv2.warpAffine(image, matrix, (side_px, side_px), borderMode=border), np.uint8)


def resized(matrix: Matrix, times: float) -> Matrix:
    """The matrix to a crop that was resized to so many times its side: what was a pixel's middle is one still.

    ReActor multiplies alone, which lays a face down 1.5 of 512 pixels too far right and low.
    """
    larger = matrix * times
    larger[:, 2] += (times - 1) / 2
    return larger


def nose_outside_eyes(points: Points) -> bool:
    """Whether a face is turned so far to a side that its nose does not lie between its eyes: seen in profile.

    Swappers know such faces badly.
    """
    left, right, nose = (np.asarray(point, np.float64) for point in points[:3])
    along = right - left
    share = float(np.dot(nose - left, along)) / max(float(np.dot(along, along)), 1e-9)
    return not 0.0 <= share <= 1.0
