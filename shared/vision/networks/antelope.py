"""antelopev2 of InsightFace: finds a photo's faces and describes whose they are, for PuLID."""

from pathlib import Path

from shared.vision.networks import insight
from shared.vision.networks.insight import ANTELOPEV2, Insight, InsightFace

PACK = ANTELOPEV2.name
DETECTOR = ANTELOPEV2.detector
RECOGNISER = ANTELOPEV2.recogniser

AntelopeFace = InsightFace
"""Its embedding is raw, as glintr100 (a ResNet-100 trained on Glint360K) gives it: so PuLID was trained."""

Antelope = Insight


def open_antelope(folder: Path, device: str = "cpu") -> Antelope:
    """Load the detector and the recogniser; nothing is downloaded.

    Args:
        folder: of the five ONNX files, or with the folder in it that holds them.
        device: `cpu`, `cuda` or `cuda:<index>`; both models run there, or not at all.

    Raises:
        Permanent: a file is missing or no ONNX model, or onnxruntime cannot use the device.
    """
    return Antelope(insight.open_app(locate(folder), device, ANTELOPEV2))


def locate(folder: Path) -> Path:
    """Where antelopev2's files are: in `folder`, or one folder deeper, as the published archive unpacks.

    Raises:
        Permanent: some are missing from both; says which and how to come by them.
    """
    return insight.locate(folder, ANTELOPEV2)
