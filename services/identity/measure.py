"""What one photo's face is like, and whether it is good enough to build a portrait on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.identity.stage import PhotoParams
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FaceMeasure
from shared.vision.align import aligned_crop
from shared.vision.codec import Image
from shared.vision.embedding import Descriptor
from shared.vision.face import Face
from shared.vision.measures import mean_level, sharpness

SHARPNESS_CROP_PX = 128
"""Sharpness is measured at this size, where every face wide enough to be used has been reduced, never enlarged."""

_AMPLE_WIDTH_PX = 256.0
_AMPLE_SHARPNESS = 400.0
_MIDDLE_LEVEL = 127.5


def measure(image: Image, face: Face, others: Sequence[Face], descriptor: Descriptor, photo: int) -> FaceMeasure:
    """Measure the face of the photo at index `photo` (from 0); where it lies, how it is turned, how good it is.

    `others` are those of other people in the photo.
    """
    level = mean_level(image, face.mesh)
    detail = sharpness(aligned_crop(image, face, SHARPNESS_CROP_PX))
    left_eye, right_eye = face.eyes.tolist()
    return FaceMeasure(
        photo=photo,
        box=face.box,
        others=tuple(other.box for other in others) or None,
        eyes=(tuple(left_eye), tuple(right_eye)),
        yaw=face.yaw,
        pitch=face.pitch,
        roll=face.roll,
        sharpness=detail,
        exposure=level,
        quality=quality(face.box[2], face.yaw, face.pitch, detail, level),
        embedding=tuple(np.asarray(descriptor, np.float64).tolist()),
    )


def quality(width_px: float, yaw: float, pitch: float, detail: float, level: float) -> float:
    """How well a face serves, 0 to 1: the product of how large, frontal, sharp and evenly exposed it is, each 0 to 1.

    Size counts up to 256 pixels, sharpness up to 400 grey levels squared; the pose by the cosines of yaw and pitch; the
    exposure by how far the mean grey level is from the middle, squared.
    """
    size = min(1.0, width_px / _AMPLE_WIDTH_PX)
    pose = max(0.0, math.cos(math.radians(yaw))) * max(0.0, math.cos(math.radians(pitch)))
    sharp = min(1.0, detail / _AMPLE_SHARPNESS)
    exposed = max(0.0, 1.0 - ((level - _MIDDLE_LEVEL) / _MIDDLE_LEVEL) ** 2)
    return size * pose * sharp * exposed


class Looks(NamedTuple):
    """What is asked of a face before it is used."""

    width_px: float
    yaw: float
    pitch: float
    level: float
    sharpness: float


def looks_of(face: FaceMeasure) -> Looks:
    """Those of a face that the portable engine measured."""
    return Looks(face.box[2], face.yaw, face.pitch, face.exposure, face.sharpness)


def refuse_unusable(photo: int, face: Looks, params: PhotoParams) -> None:
    """Refuse a face that is too small, turned away, too dark, too bright or too blurred.

    Args:
        photo: its position as the caller counts, from 1.
        face: what was measured.
        params: the bounds.

    Raises:
        InvalidInput: names `photos[i]`, the figure that was found, its bound and the mend.
    """
    field = f"photos[{photo}]"
    if face.width_px < params.min_face_width_px:
        raise InvalidInput(
            field,
            f"the face is too small: {face.width_px:.0f} pixels wide, at least {params.min_face_width_px:.0f} are"
            " needed",
            "Use a photo taken from nearer, or of higher resolution.",
        )
    if abs(face.yaw) > params.max_yaw_deg:
        side = "right" if face.yaw > 0 else "left"
        raise InvalidInput(
            field,
            f"the face is turned {abs(face.yaw):.0f} degrees to the picture's {side}, at most {params.max_yaw_deg:.0f}"
            " can be used",
            "Use a photo in which the person looks towards the camera.",
        )
    if abs(face.pitch) > params.max_pitch_deg:
        way = "up" if face.pitch > 0 else "down"
        raise InvalidInput(
            field,
            f"the face looks {abs(face.pitch):.0f} degrees {way}, at most {params.max_pitch_deg:.0f} can be used",
            "Use a photo in which the person looks towards the camera.",
        )
    if face.level < params.min_face_level:
        raise InvalidInput(
            field,
            f"the face is too dark: its mean grey level is {face.level:.0f} of 255, at least"
            f" {params.min_face_level:.0f} is needed",
            "Use a photo taken in more light, or brighten it.",
        )
    if face.level > params.max_face_level:
        raise InvalidInput(
            field,
            f"the face is too bright: its mean grey level is {face.level:.0f} of 255, at most"
            f" {params.max_face_level:.0f} can be used",
            "Use a photo that is not overexposed.",
        )
    if face.sharpness < params.min_sharpness:
        raise InvalidInput(
            field,
            f"the face is too blurred: its sharpness is {face.sharpness:.0f}, at least {params.min_sharpness:.0f} is"
            " needed",
            "Use a photo in focus and without motion blur.",
        )
