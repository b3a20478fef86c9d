"""What five key points tell of a face: how it is turned, how sharp and how bright it is. No network is asked."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.identity.measure import SHARPNESS_CROP_PX
from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.measures import grey, sharpness
from shared.vision.networks.crop512 import SIDE_PX, TEMPLATE, Points, crop_matrix
from shared.vision.pose import Pose

HEAD = np.array([(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.58, -0.65), (-0.44, 1.04, -0.1), (0.44, 1.04, -0.1)])
"""Eyes, nose tip and mouth corners of a mean head; x to the picture's right, y down, z away from the camera.

In distances between the eyes. Across and down as in crop512's template, depths of MediaPipe's canonical face model.
"""


def head_pose(points: Points) -> Pose:
    """How a head is turned, as the portable engine's mesh has it.

    The mean head is laid onto the points (turn, scale, shift) with least squares and without perspective; what the
    2 x 3 matrix of the fit lacks to a rotation is taken off (the nearest matrix of orthonormal rows). The yaw hangs on
    how far the nose is beside the middle of the eyes, and is good; the pitch on how far below, which differs from face
    to face by as much as 15 degrees do.

    Args:
        points: (5, 2) pixels, in crop512's order.
    """
    seen = np.asarray(points, np.float64)
    fitted, *_ = np.linalg.lstsq(HEAD - HEAD.mean(axis=0), seen - seen.mean(axis=0), rcond=None)
    left, _, right = np.linalg.svd(fitted.T, full_matrices=False)
    across, down = left @ right  # of the picture, in the head's axes
    away = np.cross(across, down)
    return Pose(
        yaw=float(np.degrees(np.arctan2(-across[2], away[2]))),
        pitch=float(np.degrees(np.arcsin(np.clip(down[2], -1.0, 1.0)))),
        roll=float(np.degrees(np.arctan2(down[0], across[0]))),
    )


def level(crop: Image) -> float:
    """The mean grey level, 0 to 255, of what lies between eyes and mouth in a face that `crop512` cut."""
    left, top = TEMPLATE.min(axis=0).astype(int)
    right, bottom = TEMPLATE.max(axis=0).astype(int)
    return float(grey(crop)[top:bottom, left:right].mean())


def detail(image: Image, points: Points) -> float:
    """The sharpness of a face upright at 128 pixels, in grey levels squared, as the portable engine measures it.

    Args:
        image: the photo in the size that it was handed in.
        points: (5, 2), pixels of it.
    """
    side = SIDE_PX / _scale(crop_matrix(points))
    # Reduced by area averaging first, where the face is larger than the crop: warping alone would alias.
    longest = max(1, round(max(image.shape[:2]) * min(1.0, SHARPNESS_CROP_PX / side)))
    small, factor = shrunk(image, longest)
    matrix = crop_matrix(np.asarray(points, np.float64) * factor) * (SHARPNESS_CROP_PX / SIDE_PX)
    size = (SHARPNESS_CROP_PX, SHARPNESS_CROP_PX)
    upright = cv2.warpAffine(small, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return sharpness(np.asarray(upright, np.uint8))


def _scale(matrix: NDArray[np.floating[Any]]) -> float:
    """How many times a similarity enlarges."""
    return float(np.hypot(*matrix[:, 0]))
