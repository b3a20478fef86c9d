"""Finding weights inside installed packages."""

import hashlib
import re
from pathlib import Path

import pytest

from shared.contracts.errors import Permanent
from shared.models.facts import bundled
from shared.vision import weights


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"weights")
    assert weights.digests(file) == {"model.tflite": hashlib.sha256(b"weights").hexdigest()}


def test_the_files_are_there() -> None:
    assert weights.mediapipe_weights("face_detection/face_detection_short_range.tflite").is_file()
    assert weights.dlib_weights("dlib_face_recognition_resnet_model_v1.dat").is_file()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(Permanent, match="in the package no_such_package are needed, and it is not installed"):
        weights.package_folder("no_such_package")


def test_every_weight_that_a_portable_engine_names_has_a_licence() -> None:
    """By the source of shared/vision, so that a new one cannot be forgotten."""
    named = [
        name.rpartition("/")[2]
        for path in Path(weights.__file__).parent.glob("*.py")
        for name in re.findall(r'(?:mediapipe|dlib)_weights\(\s*"([^"]+)"', path.read_text("utf-8"))
    ]
    assert sorted(set(named)) == sorted(bundled())
