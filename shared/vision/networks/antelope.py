"""antelopev2 of InsightFace: finds a photo's faces and describes whose they are."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from insightface.app import FaceAnalysis
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.device import check_providers
from shared.models.residency import Smaller
from shared.vision.boxes import Box
from shared.vision.codec import Image

PACK = "antelopev2"
DETECTOR = "scrfd_10g_bnkps.onnx"
RECOGNISER = "glintr100.onnx"

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

LADDER_STEP_PX = 64


@dataclass(frozen=True, eq=False)
class AntelopeFace:
    """One face. Pixels of the photo it was found in."""

    box: Box
    """x, y, width, height."""
    points: NDArray[np.float64]
    """(5, 2): the picture's left eye, right eye, nose, left and right corner of the mouth."""
    embedding: NDArray[np.float32]
    """(512,), raw as glintr100 gives it, not of unit length: so PuLID was trained."""
    score: float
    """The detector's confidence, 0 to 1."""

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return self.box[2] * self.box[3]


class Antelope:
    """Finds and describes faces. Keeps nothing from one photo to the next; used by one thread at a time.

    Sources: Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection" (SCRFD); Deng et al.
    2018, "ArcFace", a ResNet-100 trained on Glint360K.

    Args:
        app: insightface's FaceAnalysis, with detection and recognition; None before there is one.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    def find(
        self, image: Image, det_size: int = 640, min_det_size: int = 320, min_score: float = 0.5
    ) -> tuple[AntelopeFace, ...]:
        """The faces of a photo (uint8 RGB), largest first; none is an empty tuple.

        A face that fills the photo is too large for the detector's anchors at 640 pixels. Where nothing is found the
        photo is therefore looked at ever smaller, 64 pixels a time, and the first size at which there is a face is
        taken.

        Args:
            image: the photo.
            det_size: side of the square that the photo is first fitted into, a multiple of 32.
            min_det_size: and at last.
            min_score: of the detector, from 0 to 1, below which it is no face.
        """
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for size in range(det_size, min_det_size - 1, -LADDER_STEP_PX):
            self.app.prepare(ctx_id=0, det_thresh=min_score, det_size=(size, size))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)  # in insightface
                found = self.app.get(bgr)
            if found:
                return tuple(sorted(map(_face, found), key=lambda face: (-face.area, face.box)))
        return ()


class AntelopeResident:
    """antelopev2 as a Resident (shared.models.residency).

    ONNX sessions cannot be moved. In host memory there is none, and of the files what the system has kept of them;
    each move to the device opens them there.

    Args:
        folder: as of `open_antelope`.
        device: as of `open_antelope`.

    Raises:
        Permanent: a file is missing.
    """

    smaller: Sequence[Smaller] = ()
    host_bytes = 0

    def __init__(self, folder: Path, device: str) -> None:
        self.name = f"{PACK} of {folder}"
        self._place, self._device = locate(folder), device
        self.bytes = self.device_bytes = sum((self._place / file).stat().st_size for file in (DETECTOR, RECOGNISER))
        self._antelope: Antelope | None = None

    def load(self) -> Antelope:
        """What finds faces once it is on the device."""
        self._antelope = Antelope(None)
        return self._antelope

    def to_device(self) -> None:
        """Open the files there.

        Raises:
            Permanent: as `open_antelope`.
        """
        self._put(open_app(self._place, self._device))

    def to_host(self) -> None:
        """Let go of the sessions."""
        self._put(None)

    def drop(self) -> None:
        """Let go of all."""
        if self._antelope is not None:
            self._put(None)
        self._antelope = None

    def _put(self, app: Any) -> None:
        if self._antelope is None:
            raise RuntimeError(f"{self.name} is not loaded")
        self._antelope.app = app


def open_antelope(folder: Path, device: str = "cpu") -> Antelope:
    """Load the detector and the recogniser; nothing is downloaded.

    Args:
        folder: of the five ONNX files, or with the folder in it that holds them.
        device: `cpu`, `cuda` or `cuda:<index>`; both models run there, or not at all.

    Raises:
        Permanent: a file is missing or no ONNX model, or onnxruntime cannot use the device.
    """
    return Antelope(open_app(locate(folder), device))


def open_app(place: Path, device: str) -> Any:
    """The FaceAnalysis of the models in a folder, as `open_antelope` says."""
    kind, _, number = device.partition(":")
    provider = CUDA if kind == "cuda" else CPU
    check_providers(onnxruntime.get_available_providers(), provider)
    try:
        app = FaceAnalysis(
            name=str(place),
            root=str(place.parent),
            allowed_modules=["detection", "recognition"],
            providers=[(CUDA, {"device_id": number or "0"}), CPU] if provider == CUDA else [CPU],
        )
    except Exception as error:  # onnxruntime's errors have no common root
        raise Permanent(
            f"{place} holds no {PACK} that insightface can load ({type(error).__name__}: {error}). "
            f"`doctorgen models verify {PACK}` says which file is wrong."
        ) from error
    if app.models.keys() != {"detection", "recognition"}:
        raise Permanent(
            f"{place} holds models for {', '.join(app.models)}, where {DETECTOR} finds and {RECOGNISER} recognises "
            f"faces. `doctorgen models download {PACK}` brings them."
        )
    check_sessions(app, provider)
    return app


def locate(folder: Path) -> Path:
    """Where antelopev2's files are: in `folder`, or one folder deeper, as the published archive unpacks.

    Raises:
        Permanent: some are missing from both; says which and how to come by them.
    """
    places = (folder, folder / PACK)
    missing = {place: [name for name in (DETECTOR, RECOGNISER) if not (place / name).is_file()] for place in places}
    for place in places:
        if not missing[place]:
            return place
    best = min(places, key=lambda place: len(missing[place]))
    raise Permanent(
        f"{' and '.join(missing[best])} of {PACK} missing: looked in {places[0]} and {places[1]}. "
        f"`doctorgen models download {PACK}` brings them."
    )


def check_sessions(app: Any, provider: str) -> None:
    """See that each model of `app` runs where it was told to: onnxruntime falls back to the CPU without an error.

    Raises:
        Permanent: one does not.
    """
    for model in app.models.values():
        check_providers(model.session.get_providers(), provider)


def _face(found: Any) -> AntelopeFace:
    left, top, right, bottom = (float(edge) for edge in found.bbox)
    return AntelopeFace(
        box=(left, top, right - left, bottom - top),
        points=np.asarray(found.kps, np.float64),
        embedding=np.asarray(found.embedding, np.float32),
        score=float(found.det_score),
    )
