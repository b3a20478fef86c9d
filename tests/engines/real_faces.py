"""Stand-ins for YuNet and a recogniser that know real faces: the portable engines' finder, and dlib's network.

dlib's descriptors lie close together; less what they have in common, their cosine tells people apart as ArcFace's does.
"""

from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from shared.vision.codec import Image
from shared.vision.faces import Face
from shared.vision.networks.arcface import upright
from shared.vision.networks.yunet import FoundFace
from shared.vision.weights import dlib_weights
from tests.photos import astronaut, hopper
from tests.portable_engines import finder

_found: dict[bytes, tuple[FoundFace, ...]] = {}

CHIP_PX = 150
CHIP = np.array([(0.227, 0.221), (0.753, 0.221), (0.49, 0.52), (0.32, 0.83), (0.67, 0.83)])
"""Eyes, nose tip and mouth corners in dlib's mean face; about it is a quarter of its size."""

NOSE_TIP, MOUTH_CORNERS = 1, (61, 291)


def six_people() -> Image:
    """Six people, 1280 x 886 (carried by insightface)."""
    spec = find_spec("insightface")
    assert spec is not None
    assert spec.origin is not None
    bgr = cv2.imread(str(Path(spec.origin).parent / "data" / "images" / "t1.jpg"))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def found_of(face: Face) -> FoundFace:
    """A face of the portable finder as YuNet tells it."""
    corners = face.mesh[[NOSE_TIP, *MOUTH_CORNERS]].astype(np.float64)
    return FoundFace(face.box, np.concatenate([face.eyes, corners]), face.score)


def people() -> list[Image]:
    """Photos of eight people in all."""
    return [six_people(), astronaut(), hopper()]


class RealFinder:
    """Looks at the same picture once only."""

    def find(self, image: Image) -> tuple[FoundFace, ...]:
        seen = sha256(repr(image.shape).encode() + image.tobytes()).digest()
        if seen not in _found:
            _found[seen] = tuple(found_of(face) for face in finder().find(image))
        return _found[seen]


class RealDescriber:
    """What faces have in common is taken from those of eight people."""

    def __init__(self) -> None:
        self._network = dlib.face_recognition_model_v1(str(dlib_weights("dlib_face_recognition_resnet_model_v1.dat")))
        faces = [self._raw(photo, face.points) for photo in people() for face in RealFinder().find(photo)]
        self._common = np.mean(faces, axis=0)

    def describe(self, image: Image, points: NDArray[np.float64]) -> NDArray[np.float32]:
        own = self._raw(image, points) - self._common
        return np.asarray(own / np.linalg.norm(own), np.float32)

    def _raw(self, image: Image, points: NDArray[np.float64]) -> NDArray[np.float64]:
        chip = upright(image, points, (CHIP + 0.25) / 1.5 * CHIP_PX, CHIP_PX)
        return np.array(self._network.compute_face_descriptor(chip), np.float64)


@cache
def describer() -> RealDescriber:
    return RealDescriber()
