"""Loads PuLID's weights for FLUX: the file `pulid_flux_v0.9.x.safetensors`, 312 tensors, exactly."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shared.contracts.errors import Permanent
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.idformer import IDFormer

ATTENTIONS = 20
"""After double blocks 0, 2 .. 18 (the first ten) and single blocks 0, 4 .. 36."""

NAMES_SHOWN = 8


class Pulid(nn.Module):
    """All that the file holds. Its children bear the file's names, so that its state dict is the file's."""

    def __init__(self, encoder: IDFormer, attentions: Iterable[PerceiverAttentionCA]) -> None:
        super().__init__()
        self.pulid_encoder = encoder
        self.pulid_ca = nn.ModuleList(attentions)


def published() -> Pulid:
    """PuLID in its published size, 571 million parameters."""
    return Pulid(IDFormer(), (PerceiverAttentionCA() for _ in range(ATTENTIONS)))


def load_pulid(
    path: Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    build: Callable[[], Pulid] = published,
) -> Pulid:
    """Read PuLID from a safetensors file, ready for inference.

    Args:
        path: the published file.
        dtype: what its tensors are converted to.
        device: where they are put.
        build: makes the empty model; another than the published size is for tests.

    Raises:
        Permanent: the file cannot be read, or lacks tensors, or holds others, or some of another shape.
    """
    with torch.device("meta"):
        pulid = build()
    found = shapes(path)
    check_layout(str(path), found, {name: tuple(tensor.shape) for name, tensor in pulid.state_dict().items()})
    pulid.load_state_dict(tensors(path, found, dtype, device), strict=True, assign=True)
    return pulid.eval().requires_grad_(False)


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
