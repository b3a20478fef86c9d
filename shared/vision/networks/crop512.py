"""A face brought upright to the 512-pixel template that PuLID's face parsing and vision tower were fed with."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput
from shared.vision.codec import Image

SIDE_PX = 512

TEMPLATE = np.array([(192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15)])
"""Where eyes, nose and mouth corners come to lie, in pixels (x, y); each pair the picture's left one first.

Source: facexlib, FaceRestoreHelper: the mean face of FFHQ.
"""

BORDER = (132, 133, 135)
"""RGB of what lies outside the photo. facexlib's (135, 133, 132) is meant for the BGR pictures it works on."""

Points = NDArray[np.floating[Any]]
"""Five key points, (5, 2), in the template's order."""


def crop_matrix(points: Points) -> NDArray[np.float64]:
    """The similarity (turn, scale, shift) that brings five key points nearest to the template: (2, 3).

    Fitted by the least median of squares, so that one point that is off (a hidden mouth corner) does not tilt the face.

    Raises:
        InvalidInput: the points lie on top of one another.
    """
    matrix, _ = cv2.estimateAffinePartial2D(np.asarray(points, np.float64), TEMPLATE, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or not matrix[:, :2].any():
        raise InvalidInput(
            "points",
            f"key points from which no face can be brought upright: {np.round(points, 1).tolist()}",
            "Use a photo in which the face is seen from the front, whole, lit and in focus.",
        )
    return np.asarray(matrix, np.float64)


def crop512(image: Image, points: Points) -> Image:
    """The face of a photo (uint8 RGB) upright in 512 x 512 pixels, its key points on the template."""
    size = (SIDE_PX, SIDE_PX)
    warped = cv2.warpAffine(
        image, crop_matrix(points), size, borderMode=cv2.BORDER_CONSTANT, borderValue=[float(level) for level in BORDER]
    )
    return np.asarray(warped, np.uint8)


def moved(points: Points, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, 2) through a (2, 3) matrix."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)
