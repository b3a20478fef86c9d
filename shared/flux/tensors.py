"""Safetensors files whose tensors must be exactly those that an architecture asks for, in their shapes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.contracts.errors import Permanent

NAMES_SHOWN = 8


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of each tensor in a safetensors file; reads its header only.

    Raises:
        Permanent: the file is not there or is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        mend = "Fetch the file again; weights are read as safetensors only."
        raise Permanent(f"{path}: the weights cannot be read ({error}). {mend}") from error


def tensors(path: Path, names: Iterable[str], dtype: torch.dtype, device: str | torch.device) -> dict[str, Tensor]:
    """The tensors of these names, converted one by one so that no second copy of all of them is held."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(name).to(dtype) for name in names}


def check_layout(source: str, found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> None:
    """See that the tensors found are exactly those expected.

    Raises:
        Permanent: names what is missing, unexpected and misshapen, the first eight of each.
    """
    misshapen = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    faults = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "misshapen": misshapen,
    }
    said = [f"{len(names)} {fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if said:
        mend = "Name the file that was published for this model; fetch it again if it is that one."
        raise Permanent(f"{source}: these are not the weights expected. {'; '.join(said)}. {mend}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
