"""Reads a checkpoint of ultralytics without letting it do anything.

Such a file is a pickle of the whole network as Python objects. Building them would be enough for harm: ultralytics
evaluates a text of the network's description as Python. Here every object becomes an inert record of what it was called
and what it held, and nothing of ultralytics is imported. What comes out is tensors, numbers and text.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from shared.contracts.errors import IntegrityError, Permanent

NETWORK = "ultralytics.nn.tasks.DetectionModel"
"""The class of a network for detection; others outline or classify."""

HELD = re.compile(r"(ultralytics\.(nn|utils|yolo)|torch\.nn\.modules)(\.\w+)+")
"""Classes whose objects such a checkpoint holds: layers, and the settings of the training."""

HARMLESS = frozenset(
    {
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
    }
)
"""What else it may hold: the training's figures and where its data lay."""

SIDE_PX = 640
STRIDE_PX = 32

DEEPEST = 16
"""Modules within modules; a network that holds itself is deeper."""

_CONTENTS = ("_modules", "_parameters", "_buffers")


@dataclass(frozen=True)
class Layer:
    """What one module of the network was.

    Attributes:
        kind: the full name of its class.
        held: its attributes.
    """

    kind: str
    held: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says.

    Attributes:
        description: of the network as ultralytics' YAML has it; not checked.
        layers: every module by its path, that of the whole network being empty.
        tensors: parameters and buffers by their paths, as stored.
        side: of the square input in pixels, a multiple of 32.
    """

    description: object
    layers: Mapping[str, Layer]
    tensors: Mapping[str, torch.Tensor]
    side: int


class Record:
    """Stands for an object of the pickle. Made or called, it keeps what it was given, and does nothing."""

    kind: ClassVar[str]

    def __init__(self, *_: object) -> None:
        self.held: object = {}

    def __setstate__(self, state: object) -> None:
        self.held = state


def read(source: Path) -> Checkpoint:
    """What a checkpoint says, of its running average where it has one.

    Raises:
        IntegrityError: the file is truncated, or no pickle of torch.
        Permanent: it wants something that no checkpoint of a detector needs, before any of it is run; or it is
            something else than a detector of ultralytics.
    """
    document = _load(source)
    if not isinstance(document, Mapping):
        raise Permanent(f"{source} holds {_kind(document)}, and no checkpoint of ultralytics.")
    average = document.get("ema")
    network = average if isinstance(average, Record) else document.get("model")
    if not isinstance(network, Record) or network.kind != NETWORK:
        raise Permanent(f"{source} holds {_kind(network)}, where a detector of ultralytics is {NETWORK}.")
    layers = dict(_layers(network, "", source))
    tensors = {}
    for path, layer in layers.items():
        for name, tensor in _tensors(layer):
            tensors[f"{path}.{name}".removeprefix(".")] = tensor
    return Checkpoint(
        description=layers[""].held.get("yaml"),
        layers=layers,
        tensors=tensors,
        side=_side(document.get("train_args"), source),
    )


def _load(source: Path) -> object:
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(source)
        strangers = sorted(name for name in wanted if not (HELD.fullmatch(name) or name in HARMLESS))
        if strangers:
            raise Permanent(_refused(source, ", ".join(strangers)))
        records: list[Any] = [(type("Record", (Record,), {"kind": name}), name) for name in wanted]
        with torch.serialization.safe_globals(records):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted_one = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise Permanent(_refused(source, wanted_one[1] if wanted_one else str(error).split("\n")[0])) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise IntegrityError(f"{source} cannot be read: {reason}. Delete it and download it again.") from error


def _refused(source: Path, wanted: str) -> str:
    return (
        f"{source} is refused: it wants {wanted}, which no checkpoint of a detector needs. Nothing of it was run. Ask "
        f"its publisher for an ONNX file."
    )


def _kind(thing: object) -> str:
    return thing.kind if isinstance(thing, Record) else type(thing).__name__


def _layers(record: Record, path: str, source: Path) -> Iterator[tuple[str, Layer]]:
    """This module and all within it."""
    held = record.held
    whole = isinstance(held, Mapping) and all(isinstance(held.get(one), Mapping) for one in _CONTENTS)
    if not whole or not isinstance(held, Mapping) or path.count(".") >= DEEPEST:
        raise Permanent(
            f"{source} is no checkpoint of ultralytics: its {path or 'network'} holds no layers or tensors."
        )
    yield path, Layer(record.kind, held)
    for name, inner in held["_modules"].items():
        if isinstance(inner, Record):
            yield from _layers(inner, f"{path}.{name}".removeprefix("."), source)


def _tensors(layer: Layer) -> Iterator[tuple[str, torch.Tensor]]:
    """Its own, those that a state dict would hold."""
    passing = layer.held.get("_non_persistent_buffers_set") or ()
    for name, tensor in (*layer.held["_parameters"].items(), *layer.held["_buffers"].items()):
        if isinstance(tensor, torch.Tensor) and name not in passing:
            yield str(name), tensor.detach()


def _side(settings: object, source: Path) -> int:
    """The side that it was trained with, up to the next multiple of 32, as ultralytics takes it."""
    held = settings.held if isinstance(settings, Record) else settings
    side = held.get("imgsz", SIDE_PX) if isinstance(held, Mapping) else SIDE_PX
    if not isinstance(side, int) or not 0 < side <= 4096:
        raise Permanent(f"{source} was trained with pictures of {side} pixels; one side from 1 to 4096 is understood.")
    return -(-side // STRIDE_PX) * STRIDE_PX
