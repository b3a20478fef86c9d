"""Who a face is: dlib's 128-d descriptor, the distance of two, and how alike that makes them."""

from collections.abc import Mapping
from typing import TypeAlias

import cv2
import dlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.vision.boxes import crop_square, square_around
from shared.vision.codec import Image
from shared.vision.face import Face
from shared.vision.weights import digests, dlib_weights

ENCODER = "dlib_face_recognition_resnet_model_v1"
"""The name of the model, as records and verdicts carry it."""

SAME_PERSON_DISTANCE = 0.6
"""The Euclidean distance up to which dlib's model says: the same person (99.38 % right on LFW, by its author)."""

Descriptor: TypeAlias = NDArray[np.float64]
"""(128,); compared by Euclidean distance, not of unit length."""

_PATCH_PX = 400
_PATCH_SCALE = 2.2
_FRAME_SCALE = 0.47
_FRAME_SHIFT = 0.02

_CALIBRATION = ((0.0, 1.0), (SAME_PERSON_DISTANCE, 0.60), (1.05, 0.0))
"""Distance to likeness, straight between the points. How they were found: docs/likeness.md."""


def distance(a: ArrayLike, b: ArrayLike) -> float:
    """The Euclidean distance of two descriptors: 0 for the same picture, about 0.9 between strangers."""
    return float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)))


def likeness(distance: float) -> float:
    """How alike two faces at that distance are, 0 to 1; 0.60 at the boundary of the same person."""
    distances, values = zip(*_CALIBRATION, strict=True)
    return float(np.interp(distance, distances, values))


class FaceEncoder:
    """Describes a found face in 128 numbers.

    The face is turned upright by the roll of its mesh, five landmarks are set in it, and its chip goes through the
    network.

    Source: King, Dlib-ml (2009), and its face_recognition_resnet_model_v1, a 29-layer ResNet with a metric loss.
    """

    def __init__(self) -> None:
        landmarks = dlib_weights("shape_predictor_5_face_landmarks.dat")
        network = dlib_weights("dlib_face_recognition_resnet_model_v1.dat")
        self.models: Mapping[str, str] = digests(landmarks, network)
        self._landmarks = dlib.shape_predictor(str(landmarks))
        self._network = dlib.face_recognition_model_v1(str(network))

    def encode(self, image: Image, face: Face) -> Descriptor:
        """The descriptor of a face found in this picture (uint8 RGB)."""
        patch, mesh = _upright(image, face)
        places = self._landmarks(patch, _frame(mesh))
        return np.array(self._network.compute_face_descriptor(patch, places), np.float64)


def _upright(image: Image, face: Face) -> tuple[Image, NDArray[np.float64]]:
    """The face in a square of `_PATCH_PX` with its eyes level, and its mesh (N, 2) there."""
    x, y, side, _ = (float(round(value)) for value in square_around(face.box, _PATCH_SCALE))
    patch = crop_square(image, (x, y, side, side), _PATCH_PX)
    turn = cv2.getRotationMatrix2D((_PATCH_PX / 2, _PATCH_PX / 2), face.roll, 1.0)
    turned = cv2.warpAffine(patch, turn, (_PATCH_PX, _PATCH_PX), borderMode=cv2.BORDER_REPLICATE)
    mesh = (face.mesh.astype(np.float64) - (x, y)) * (_PATCH_PX / side)
    return np.asarray(turned, np.uint8), mesh @ turn[:, :2].T + turn[:, 2]


def _frame(mesh: NDArray[np.float64]) -> "dlib.rectangle":
    """The box dlib's own detector would draw about this face, which the landmark model was trained on."""
    low, high = mesh.min(axis=0), mesh.max(axis=0)
    width, height = high - low
    x, y = (low + high) / 2 + (0.0, _FRAME_SHIFT * height)
    reach = _FRAME_SCALE * (width + height) / 2
    return dlib.rectangle(round(x - reach), round(y - reach), round(x + reach), round(y + reach))
