"""A face brought upright to a fixed place and size."""

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.boxes import crop_square
from shared.vision.codec import Image
from shared.vision.face import Face

_MOUTH_CORNERS = (61, 291)


def face_square(face: Face) -> NDArray[np.float64]:
    """The oriented square that FFHQ cuts about a face.

    Source: Karras et al., A Style-Based Generator Architecture for GANs (2019), the alignment of the FFHQ data set: the
    square stands on the line of the eyes, is twice as wide as the eyes are apart (or 1.8 times as the mouth is below
    them, where that is more), counted from its middle, which lies a tenth of the way from eyes to mouth.

    Returns:
        (3, 2) pixels: the upper left, upper right and lower left corners.
    """
    left_eye, right_eye = face.eyes
    mouth = face.mesh[list(_MOUTH_CORNERS)].astype(np.float64).mean(axis=0)
    eyes = (left_eye + right_eye) / 2
    across, below = right_eye - left_eye, mouth - eyes
    direction = across + np.array([below[1], -below[0]])
    direction /= np.hypot(*direction)
    right = direction * max(np.hypot(*across) * 2.0, np.hypot(*below) * 1.8)
    down = np.array([-right[1], right[0]])
    middle = eyes + 0.1 * below
    return np.stack([middle - right - down, middle + right - down, middle - right + down])


def aligned_crop(image: Image, face: Face, side_px: int = 512) -> Image:
    """The face upright in a square of `side_px`, eyes level, as FFHQ cuts it; beyond the picture its edge repeats."""
    corners = face_square(face)
    side = float(np.hypot(*(corners[1] - corners[0])))
    middle = (corners[1] + corners[2]) / 2
    reach = 1.5 * side
    square = (
        float(round(middle[0] - reach / 2)),
        float(round(middle[1] - reach / 2)),
        float(round(reach)),
        float(round(reach)),
    )
    # Reduced by area averaging first, where the face is larger than the crop: warping alone would alias.
    patch_px = round(min(reach, 1.5 * side_px))
    patch = crop_square(image, square, patch_px)
    source = ((corners - square[:2]) * (patch_px / square[2])).astype(np.float32)
    target = np.array([(0, 0), (side_px, 0), (0, side_px)], np.float32)
    matrix = cv2.getAffineTransform(source, target)
    warped = cv2.warpAffine(patch, matrix, (side_px, side_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
