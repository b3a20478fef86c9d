"""YuNet: finds faces with OpenCV's own FaceDetectorYN, on the CPU.

Source: Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector (2023); `face_detection_yunet_2023mar.onnx`, MIT.
The published graph is of a fixed 640 x 640, which OpenCV reshapes and onnxruntime does not; with 75 thousand parameters
it needs no GPU.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.onnx import OnnxResident
from shared.vision.boxes import Box, coincide, shrunk
from shared.vision.codec import Image

SIZES_PX = (1024, 320)
"""The longer sides at which a picture is looked at. The network was trained on faces of 10 to 300 pixels: at 320 those
that nearly fill the picture are so small, too."""

MIN_SCORE = 0.7

OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32))
"""The graph's, by the names that OpenCV asks for."""

_PROBE_PX = 64
_OVERLAP = 0.3
_MOST = 5000
_LEAST_PX = 1.0


@dataclass(frozen=True, eq=False)
class FoundFace:
    """One face. Pixels of the picture it was found in."""

    box: Box
    """x, y, width, height; may reach beyond the picture."""
    points: NDArray[np.float64]
    """(5, 2): the picture's left eye, right eye, nose, left and right corner of the mouth."""
    score: float
    """The detector's confidence, 0 to 1."""


class Yunet:
    """Finds faces. Keeps nothing from one picture to the next; used by one thread at a time.

    Args:
        path: of the ONNX file.

    Raises:
        Permanent: it is no ONNX model that OpenCV can read, or no YuNet, or gives numbers that are none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._network: Any = cv2.FaceDetectorYN.create(str(path), "", (32, 32), MIN_SCORE, _OVERLAP, _MOST)
            probed: Any = cv2.dnn.readNet(str(path))
        except cv2.error as error:
            raise self._unfit(f"OpenCV cannot read it ({error})") from error
        self._probe(probed)

    def find(self, image: Image, min_score: float = MIN_SCORE) -> tuple[FoundFace, ...]:
        """The faces of a picture (uint8 RGB), largest first; none is an empty tuple.

        Args:
            image: the picture, of any size; it is reduced to `SIZES_PX`, and never enlarged.
            min_score: of the detector, 0 to 1, below which it is no face.

        Raises:
            Permanent: the file is no YuNet, or gives numbers that are none.
        """
        bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
        self._network.setScoreThreshold(min_score)
        looks = {reduced.shape: (reduced, factor) for reduced, factor in (shrunk(bgr, side) for side in SIZES_PX)}
        seen = [face for reduced, factor in looks.values() for face in self._look(reduced, factor)]
        faces: list[FoundFace] = []
        for face in sorted(seen, key=lambda face: (-face.score, face.box)):
            if not any(coincide(face.box, other.box) for other in faces):
                faces.append(face)
        return tuple(sorted(faces, key=lambda face: (-face.box[2] * face.box[3], face.box)))

    def _probe(self, network: Any) -> None:
        """See that the graph gives numbers: FaceDetectorYN tells no face, and no error, where scores are none."""
        try:
            network.setInput(np.full((1, 3, _PROBE_PX, _PROBE_PX), 128, np.float32))
            given = network.forward(OUTPUTS)
        except cv2.error as error:
            raise self._unfit(f"it does not give what YuNet gives ({error})") from error
        if not all(np.isfinite(one).all() for one in given):
            raise self._unfit("it gives numbers that are none")

    def _look(self, bgr: Image, factor: float) -> list[FoundFace]:
        """What there is in a reduced picture, in pixels of the whole one. Rows of 15: box, five points, score."""
        height, width = bgr.shape[:2]
        try:
            self._network.setInputSize((width, height))
            _, rows = self._network.detect(bgr)
        except cv2.error as error:
            raise self._unfit(f"it does not give what YuNet gives ({error})") from error
        found = np.zeros((0, 15)) if rows is None else np.asarray(rows, np.float64)
        if not np.isfinite(found).all():
            raise self._unfit("it found a face at places that are no numbers")
        faces = []
        for row in found:
            left, top, wide, high = (float(one) for one in row[:4] / factor)
            points = row[4:14].reshape(5, 2) / factor
            if min(wide, high, *np.ptp(points, axis=0)) >= _LEAST_PX:  # else there is nothing to bring upright
                faces.append(FoundFace((left, top, wide, high), points, float(row[14])))
        return faces

    def _unfit(self, why: str) -> Permanent:
        return Permanent(
            f"{self._path} cannot be used to find faces: {why}. "
            f"`doctorgen models verify {self._path.parent.name}` says whether it is damaged."
        )


def yunet_key(path: Path) -> str:
    """What a Residency knows it by."""
    return f"{path} by OpenCV on cpu"


def yunet_resident(path: Path) -> OnnxResident[Yunet]:
    """It as a Residency lends it."""
    return OnnxResident(f"YuNet of {path.parent.name}", [path], lambda: Yunet(path))
