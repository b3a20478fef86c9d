"""Loads PuLID's weights for FLUX, exactly: `pulid_flux_v0.9.x.safetensors`, 312 tensors, or a file of one's own."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import INDEX, PUBLISHED, IdentityIndex, read_index
from shared.flux.tensors import check_layout, shapes, tensors
from shared.models.catalogue import load_models
from shared.models.shelf import Shelf

ROLE = "identity adapter"
"""What a step's identity model is in the catalogue."""

ENCODER = "pulid_encoder."
"""What the names of the encoder's tensors begin with; the others are the cross-attentions'."""


class Pulid(nn.Module):
    """All that the file holds. Its children bear the file's names, so that its state dict is the file's."""

    def __init__(self, encoder: IDFormer, attentions: Iterable[PerceiverAttentionCA]) -> None:
        super().__init__()
        self.pulid_encoder = encoder
        self.pulid_ca = nn.ModuleList(attentions)


def published() -> Pulid:
    """PuLID in its published size, 571 million parameters."""
    return built(PUBLISHED)


def built(index: IdentityIndex) -> Pulid:
    """An empty PuLID of the sizes that an index states."""
    shape, width = index.attentions, index.idformer.out_dim
    attentions = (PerceiverAttentionCA(shape.dim, width, shape.heads, shape.head_dim) for _ in range(shape.count))
    return Pulid(IDFormer(**index.idformer.model_dump()), attentions)


def own_index(folder: Path, name: str) -> IdentityIndex | None:
    """The index of an identity model in a folder of its own, or None of one in the catalogue's layout.

    Args:
        folder: of the models.
        name: of the catalogue's, or of a folder below.

    Raises:
        InvalidInput: the catalogue has something else of that name.
        Permanent: the catalogue does not know the name and its folder has no index, or an index is damaged.
    """
    known = load_models().named(name)
    if known is not None and known.role != ROLE:
        raise InvalidInput("model", f"{name} is a {known.role}", "Name an identity adapter, such as PuLID.")
    own = own_folder(folder, name)
    return None if known is not None and not (own / INDEX).is_file() else read_index(own)


def own_folder(folder: Path, name: str) -> Path:
    """Where a model of that name, or of that alias in the catalogue, lies. Need not exist."""
    known = load_models().named(name)
    return folder / (name if known is None else known.name)


def pulid_file(folder: Path, name: str) -> Path:
    """Where the weights of a PuLID lie: the catalogue's file, or the one that a folder of one's own names.

    Args:
        folder: of the models.
        name: of the catalogue's, or of a folder below with an `identity_index.json`.

    Raises:
        InvalidInput: the catalogue has something else of that name.
        Permanent: the file or the index is missing or damaged; says what brings it.
        IntegrityError: the catalogue's file is truncated.
    """
    index = own_index(folder, name)
    if index is None:
        (path,) = Shelf(folder).require(load_models().model(name)).values()
        return path
    own = own_folder(folder, name)
    if not (own / index.files.pulid).is_file():
        raise Permanent(f"{own / index.files.pulid} is missing, which {own / INDEX} names. Put it there, or mend that.")
    return own / index.files.pulid


def builder_of(folder: Path, name: str) -> Callable[[], Pulid]:
    """What makes the empty model for `load_pulid(pulid_file(folder, name), ..., build=)`: of the sizes it has.

    Raises:
        InvalidInput: the catalogue has something else of that name.
        Permanent: an index is missing or damaged.
    """
    index = own_index(folder, name)
    return published if index is None else partial(built, index)


def load_pulid(
    path: Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    build: Callable[[], Pulid] = published,
) -> Pulid:
    """Read PuLID from a safetensors file, ready for inference.

    Args:
        path: of the file, as `pulid_file` gives it.
        dtype: what its tensors are converted to.
        device: where they are put.
        build: makes the empty model, as `builder_of` gives it.

    Raises:
        Permanent: the file cannot be read, or lacks tensors, or holds others, or some of another shape.
    """
    pulid, found = _empty(path, build)
    pulid.load_state_dict(tensors(path, found, dtype, device), strict=True, assign=True)
    return pulid.eval().requires_grad_(False)


def load_idformer(path: Path, dtype: torch.dtype = torch.bfloat16, build: Callable[[], Pulid] = published) -> IDFormer:
    """Read the encoder alone, onto the CPU: of the file's two parts the cross-attentions are the larger.

    Args:
        path: of PuLID's file, as `pulid_file` gives it.
        dtype: what its tensors are converted to.
        build: makes the empty model, as `builder_of` gives it.

    Raises:
        Permanent: as `load_pulid`, for either part.
    """
    pulid, found = _empty(path, build)
    names = [name for name in found if name.startswith(ENCODER)]
    state = {name.removeprefix(ENCODER): tensor for name, tensor in tensors(path, names, dtype, "cpu").items()}
    pulid.pulid_encoder.load_state_dict(state, strict=True, assign=True)
    return pulid.pulid_encoder.eval().requires_grad_(False)


def _empty(path: Path, build: Callable[[], Pulid]) -> tuple[Pulid, list[str]]:
    """PuLID without weights, and the names of those in the file, which has been seen to hold just these."""
    with torch.device("meta"):
        pulid = build()
    found = shapes(path)
    check_layout(str(path), found, {name: tuple(tensor.shape) for name, tensor in pulid.state_dict().items()})
    return pulid, list(found)
