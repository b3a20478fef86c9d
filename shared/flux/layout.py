"""Folders and tensors of models in diffusers' layout, and whether they are what an architecture asks for.

A file is read only if every tensor that the architecture asks for is there, in its shape, and none besides: what is
missing would stay random, and what is left over would have meant something.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from shared.contracts.errors import Permanent

SHOWN: Final = 10
CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


def some(names: Collection[str]) -> str:
    """The first ten and the count."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, … ({len(names)} in all)"


def config_of(folder: Path, kind: str) -> dict[str, Any]:
    """A model's configuration.

    Args:
        folder: of the model.
        kind: diffusers' class that it must name.

    Raises:
        Permanent: there is none, it is of another class, or the model is quantised.
    """
    if not (folder / CONFIG).is_file():
        raise Permanent(f"{folder} is no diffusers folder: there is no {CONFIG}. Fetch the model again.")
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    if config.get("_class_name") != kind:
        raise Permanent(f"{folder} holds a {config.get('_class_name')}, not a {kind}. Name a model for FLUX.1.")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method")
        raise Permanent(f"{folder} is quantised by {method}. Use the version in bf16 or a single file in fp8.")
    return config


def shards(folder: Path) -> list[Path]:
    """The files that hold a model's tensors.

    Raises:
        Permanent: there are none, or pickles only.
    """
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        return sorted({folder / Path(shard).name for shard in json.loads(index.read_text())["weight_map"].values()})
    if not (folder / WEIGHTS).is_file():
        pickled = "; its pickled weights are never loaded" if list(folder.glob("*.bin")) else ""
        raise Permanent(f"There is no {WEIGHTS} in {folder}{pickled}. Fetch the model again.")
    return [folder / WEIGHTS]


def check_names(path: Path, what: str, expected: Collection[str], found: Collection[str]) -> None:
    """See that a file holds the tensors of an architecture by name.

    Args:
        path: of the file or folder.
        what: it should be, for people.
        expected: names.
        found: names.

    Raises:
        Permanent: lists what is missing and what is not expected.
    """
    faults = {
        "are missing": sorted(set(expected) - set(found)),
        "are not expected": sorted(set(found) - set(expected)),
    }
    said = [f"{len(names)} tensors {are}: {some(names)}." for are, names in faults.items() if names]
    if said:
        raise Permanent(
            f"{path.name} is not the {what} it should be. {' '.join(said)} Fetch it again, or name the right file."
        )


def check_shapes(path: Path, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that they have the shapes of a model.

    Raises:
        Permanent: lists what is found and what was asked for.
    """
    others = [
        f"{name} {list(shapes[name])} for {list(weight.shape)}"
        for name, weight in model.state_dict().items()
        if shapes[name] != tuple(weight.shape)
    ]
    if others:
        raise Permanent(f"{path.name} is of another architecture. {len(others)} of another shape: {some(others)}.")
