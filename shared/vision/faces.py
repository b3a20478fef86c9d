"""Finds the faces of a picture: where they are, their mesh of landmarks, and how the heads are turned."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import dlib
import numpy as np
from mediapipe.python.solutions.face_detection import FaceDetection
from mediapipe.python.solutions.face_mesh import FaceMesh
from numpy.typing import NDArray

from shared.vision.boxes import Box, centre, coincide, crop_square, shrunk, square_around
from shared.vision.codec import Image
from shared.vision.face import Face
from shared.vision.pose import head_pose
from shared.vision.quiet import quiet_native_logs
from shared.vision.weights import digests, mediapipe_weights

__all__ = ["Face", "FaceFinder"]

_OVERVIEW_PX = 1024
_CROP_PX = 512
_CROP_SCALE = 2.0
_PROPOSED_SCORE = 0.5
_CONFIRMED_SCORE = 0.68
"""On 130 photos with 190 faces, one true face of 31 pixels scored less (0.66), and one false one more: a dog (0.75)."""
_MESH_SCORE = 0.3
_HOG_THRESHOLD = 0.3
_IRISES = 10
_NEAR_MIDDLE = 0.25


@cache
def _hog() -> Any:
    """What every finder takes a copy of: dlib unpacks its detector in 0.5 s, and copies it in 1 ms."""
    return dlib.get_frontal_face_detector()


class FaceFinder:
    """Finds faces of any number and size. Keeps nothing from one picture to the next; used by one thread at a time.

    MediaPipe's short and full range detectors look at the whole picture and at nine overlapping quarters of it, dlib's
    HOG detector at the whole. Each place they name is enlarged, looked at again by both of MediaPipe's detectors, and
    given to the face mesh (with irises); what neither of the two confirms there, or has no mesh, is dropped.

    Sources: Bazarevsky et al., BlazeFace (2019); Kartynnik et al., Real-time Facial Surface Geometry (2019), and
    Grishchenko et al., Attention Mesh (2020); Dalal and Triggs, Histograms of Oriented Gradients (2005), as in dlib.
    """

    def __init__(self) -> None:
        self.models: Mapping[str, str] = digests(
            mediapipe_weights("face_detection/face_detection_short_range.tflite"),
            mediapipe_weights("face_detection/face_detection_full_range_sparse.tflite"),
            mediapipe_weights("face_landmark/face_landmark_with_attention.tflite"),
        )
        self._hog = deepcopy(_hog())
        with quiet_native_logs():
            self._short = FaceDetection(model_selection=0, min_detection_confidence=_PROPOSED_SCORE)
            self._full = FaceDetection(model_selection=1, min_detection_confidence=_PROPOSED_SCORE)
            self._mesh = FaceMesh(
                static_image_mode=True, max_num_faces=3, refine_landmarks=True, min_detection_confidence=_MESH_SCORE
            )
            blank = np.zeros((64, 64, 3), np.uint8)
            for model in (self._short, self._full, self._mesh):
                model.process(blank)
        self._has_met_a_face = False

    def find(self, image: Image) -> tuple[Face, ...]:
        """The faces of a picture (uint8 RGB), largest first; none is an empty tuple."""
        if self._has_met_a_face:
            return self._find(image)
        with quiet_native_logs():
            faces = self._find(image)
        self._has_met_a_face = bool(faces)
        return faces

    def _find(self, image: Image) -> tuple[Face, ...]:
        overview, factor = shrunk(image, _OVERVIEW_PX)
        places = _distinct(tuple(v / factor for v in box) for box in self._places(overview))  # type: ignore[misc]
        seen = [face for place in places if (face := self._look_closely(image, place))]
        faces: list[Face] = []
        for face in sorted(seen, key=lambda face: (-face.score, face.box)):
            if not any(coincide(face.box, other.box) for other in faces):
                faces.append(face)
        return tuple(sorted(faces, key=lambda face: (-face.box[2] * face.box[3], face.box)))

    def _places(self, overview: Image) -> Iterator[Box]:
        """Where faces may be, in pixels of the overview; the surest first, each face possibly several times."""
        for x, y, region in _regions(overview):
            for detector in (self._short, self._full):
                for (left, top, width, height), _ in _detections(detector, region):
                    yield x + left, y + top, width, height
        rectangles, _, _ = self._hog.run(overview, 0, _HOG_THRESHOLD)
        for found in rectangles:
            yield float(found.left()), float(found.top()), float(found.width()), float(found.height())

    def _look_closely(self, image: Image, place: Box) -> Face | None:
        square = square_around(place, _CROP_SCALE)
        square = (float(round(square[0])), float(round(square[1])), float(round(square[2])), float(round(square[2])))
        crop = crop_square(image, square, _CROP_PX)
        score = max(_score_in_middle(_detections(detector, crop)) for detector in (self._short, self._full))
        if score < _CONFIRMED_SCORE:
            return None
        for landmarks in self._mesh.process(crop).multi_face_landmarks or ():
            points = np.array([(p.x, p.y, p.z) for p in landmarks.landmark], np.float64) * square[2]
            face = _face(points[:, :2] + square[:2], points[:, 2], score)
            if coincide(face.box, place) and _is_near_middle(face.box, square):
                return face
        return None


def _face(mesh: NDArray[np.float64], depth: NDArray[np.float64], score: float) -> Face:
    outline = mesh[:-_IRISES]
    x, y = outline.min(axis=0)
    width, height = outline.max(axis=0) - (x, y)
    pose = head_pose(mesh.astype(np.float32), depth.astype(np.float32))
    return Face(
        box=(float(x), float(y), float(width), float(height)),
        mesh=mesh.astype(np.float32),
        mesh_depth=depth.astype(np.float32),
        yaw=pose.yaw,
        pitch=pose.pitch,
        roll=pose.roll,
        score=score,
    )


def _regions(overview: Image) -> Iterator[tuple[float, float, Image]]:
    """The whole picture, then three by three overlapping regions of half its width and height, with their corners."""
    yield 0.0, 0.0, overview
    height, width = overview.shape[:2]
    for y in (0, height // 4, height // 2):
        for x in (0, width // 4, width // 2):
            region = np.ascontiguousarray(overview[y : y + (height + 1) // 2, x : x + (width + 1) // 2])
            yield float(x), float(y), region


def _detections(detector: Any, image: Image) -> list[tuple[Box, float]]:
    """Boxes in pixels of the image given, with their confidence."""
    height, width = image.shape[:2]
    found = []
    for detection in detector.process(image).detections or ():
        box = detection.location_data.relative_bounding_box
        pixels = (box.xmin * width, box.ymin * height, box.width * width, box.height * height)
        found.append((pixels, min(1.0, float(detection.score[0]))))
    return found


def _distinct(places: Iterable[Box]) -> list[Box]:
    kept: list[Box] = []
    for place in places:
        if not any(_same_place(place, other) for other in kept):
            kept.append(place)
    return kept


def _same_place(a: Box, b: Box) -> bool:
    """Two detectors' boxes of one face: the middles close, the sizes alike."""
    reach = _NEAR_MIDDLE * min(a[2], b[2])
    (ax, ay), (bx, by) = centre(a), centre(b)
    return abs(ax - bx) < reach and abs(ay - by) < reach and 0.5 < a[2] / b[2] < 2.0


def _score_in_middle(detections: list[tuple[Box, float]]) -> float:
    """The confidence of what was found in the middle of a crop; 0 where nothing was."""
    crop = (0.0, 0.0, float(_CROP_PX), float(_CROP_PX))
    return max((score for box, score in detections if _is_near_middle(box, crop)), default=0.0)


def _is_near_middle(box: Box, square: Box) -> bool:
    (x, y), (middle_x, middle_y) = centre(box), centre(square)
    return max(abs(x - middle_x), abs(y - middle_y)) < _NEAR_MIDDLE * square[2]
