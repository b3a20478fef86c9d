"""antelopev2 of InsightFace: finds a photo's faces and describes whose they are, for PuLID."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.models.residency import Smaller
from shared.vision.networks import insight
from shared.vision.networks.insight import ANTELOPEV2, Insight, InsightFace

PACK = ANTELOPEV2.name
DETECTOR = ANTELOPEV2.detector
RECOGNISER = ANTELOPEV2.recogniser

AntelopeFace = InsightFace
"""Its embedding is raw, as glintr100 (a ResNet-100 trained on Glint360K) gives it: so PuLID was trained."""

Antelope = Insight


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
    return insight.open_app(place, device, ANTELOPEV2)


def locate(folder: Path) -> Path:
    """Where antelopev2's files are: in `folder`, or one folder deeper, as the published archive unpacks.

    Raises:
        Permanent: some are missing from both; says which and how to come by them.
    """
    return insight.locate(folder, ANTELOPEV2)
