"""ONNX models on the device that was asked for, and nowhere else; lent by a Residency like all others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import onnxruntime

from shared.contracts.errors import DevicePoisoned, DoctorGenError, Permanent, ResourceExhausted
from shared.models.device import check_providers
from shared.models.residency import Smaller
from shared.worker.errors import classify

onnxruntime.set_default_logger_severity(3)  # errors: it warns of each node that a GPU's provider leaves to the CPU
onnxruntime.disable_telemetry_events()  # official builds may report sessions; a worker tells its owner alone

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

EXACT_AND_LEAN = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
"""onnxruntime's own choices time each new shape of input and take the fastest, so that the same input may give other
bytes next time, and double the memory they hold whenever it is short."""

Opened = TypeVar("Opened")


def provider_of(device: str) -> tuple[str, list[Any]]:
    """Of a device (`cpu`, `cuda` or `cuda:<index>`) the provider that must be in use, and what to open a session with.

    Raises:
        Permanent: this onnxruntime has no such provider.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return CPU, [CPU]
    check_providers(onnxruntime.get_available_providers(), CUDA)
    return CUDA, [(CUDA, {"device_id": number or "0", **EXACT_AND_LEAN}), CPU]


def open_session(path: Path, device: str) -> Any:
    """An `onnxruntime.InferenceSession` of a file.

    Raises:
        Permanent: it is no ONNX model, or onnxruntime cannot use the device.
        ResourceExhausted, DevicePoisoned: as `unopened`.
    """
    wanted, providers = provider_of(device)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's errors have no common root
        wrong = f"{path} is no model that onnxruntime can load"
        mend = f"`doctorgen models verify {path.parent.name}` says whether it is damaged."
        raise unopened(path, error, wrong, mend) from error
    check_providers(session.get_providers(), wanted)
    return session


def unopened(path: Path, error: Exception, wrong: str, mend: str) -> DoctorGenError:
    """What it means that onnxruntime could not open a model: nothing is wrong with it where there was no room.

    Args:
        path: the model's.
        error: onnxruntime's.
        wrong: what is wrong with the model otherwise.
        mend: and how to go about it.

    Returns:
        ResourceExhausted where memory ran out, DevicePoisoned after an error that the device does not get over, else
        Permanent.
    """
    kind, said = classify(error), f"({type(error).__name__}: {error})"
    if kind in {ResourceExhausted, DevicePoisoned}:
        return kind(f"{path} could not be opened {said}.")
    return Permanent(f"{wrong} {said}. {mend}")


class Finite:
    """A session that lets nothing but numbers through, for libraries that would make something else of the rest.

    A detector's score that is no number is below any threshold, so that a damaged model would find nothing, and whoever
    handed in the picture would be blamed.

    Args:
        session: an `onnxruntime.InferenceSession`.
        name: what people call the model, for errors.
    """

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        """As the session's own.

        Raises:
            Permanent: the model gave what is no number.
        """
        given = self._session.run(*arguments)
        if not all(np.isfinite(one).all() for one in given):
            raise Permanent(
                f"{self._name} gave what is no number. Its file is damaged, or the device computes wrongly: `doctorgen "
                "models verify` says which."
            )
        return given


class OnnxResident(Generic[Opened]):
    """What is opened of ONNX files as a Resident (shared.models.residency).

    Sessions cannot be moved. In host memory there is none, and of the files what the system has kept of them; each move
    to the device opens them there.

    Args:
        name: what people call it.
        files: what is opened; their sizes are what it takes.
        opened: opens them on the device.
    """

    smaller: Sequence[Smaller] = ()
    host_bytes = 0

    def __init__(self, name: str, files: Sequence[Path], opened: Callable[[], Opened]) -> None:
        self.name = name
        self.bytes = self.device_bytes = sum(file.stat().st_size for file in files)
        self._opened = opened
        self._slot: Slot[Opened] | None = None

    def load(self) -> "Slot[Opened]":
        """Where what was opened is found once it is on the device."""
        self._slot = Slot()
        return self._slot

    def to_device(self) -> None:
        """Open the files there.

        Raises:
            Permanent: as what opens them.
        """
        self._here().put(self._opened())

    def to_host(self) -> None:
        """Let go of what was opened."""
        self._here().put(None)

    def drop(self) -> None:
        """Let go of all."""
        if self._slot is not None:
            self._slot.put(None)
        self._slot = None

    def _here(self) -> "Slot[Opened]":
        if self._slot is None:
            raise RuntimeError(f"{self.name} is not loaded")
        return self._slot


class Slot(Generic[Opened]):
    """What an OnnxResident lends: the same object in its whole life, whatever it holds meanwhile."""

    def __init__(self) -> None:
        self._held: Opened | None = None

    def put(self, held: Opened | None) -> None:
        """Hold that, or nothing."""
        self._held = held

    @property
    def it(self) -> Opened:
        """What was opened.

        Raises:
            RuntimeError: it is not on the device, and nobody has borrowed it.
        """
        if self._held is None:
            raise RuntimeError("the model is used, and it was not borrowed")
        return self._held
