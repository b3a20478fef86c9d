"""Where the weights of the portable engines lie: inside the wheels of MediaPipe and face_recognition_models."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from shared.contracts.errors import Permanent


@cache
def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        Permanent: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise Permanent(f"The weights in the package {package} are needed, and it is not installed.")
    return Path(spec.origin).parent


def mediapipe_weights(name: str) -> Path:
    """A `.tflite` file of MediaPipe, by its path below `mediapipe/modules`."""
    return package_folder("mediapipe") / "modules" / name


def dlib_weights(name: str) -> Path:
    """A `.dat` file of face_recognition_models, by its name."""
    return package_folder("face_recognition_models") / "models" / name


@cache
def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal. Read once in a process's life."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(*paths: Path) -> dict[str, str]:
    """File name to SHA-256."""
    return {path.name: sha256_of(path) for path in paths}
