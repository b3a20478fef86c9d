"""Where the GPU engine's four networks lie, and how they are borrowed for the time of a step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from services.identity.stage import FluxEncodeParams
from shared.contracts.errors import Permanent
from shared.flux.pulid.eva import EvaTower, load_eva
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import INDEX, PUBLISHED, IdentityIndex
from shared.flux.pulid.weights import built, load_idformer, own_folder, own_index, pulid_file
from shared.flux.residents import ModuleResident
from shared.models.catalogue import load_models
from shared.models.residency import Residency, Resident
from shared.models.shelf import Shelf
from shared.vision.networks.antelope import PACK, Antelope, locate
from shared.vision.networks.insight import ANTELOPEV2
from shared.vision.networks.packs import Packed, pack_named
from shared.vision.networks.parsing import FaceParser, parser_key, parser_resident

VISION_TOWER = "EVA02-CLIP-L-336"
PARSER = "face-parsing"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Encoders:
    """The four networks; the last three on one device, the last two in one precision."""

    faces: Antelope
    parser: nn.Module
    """A FaceParser, or whatever scores its classes."""
    tower: EvaTower
    idformer: IDFormer


@dataclass(frozen=True)
class Place:
    """Where the networks of one identity model lie, and what they are called."""

    index: IdentityIndex
    """Their sizes."""
    faces: Packed
    parser: Path
    tower: Path
    pulid: Path
    names: Mapping[str, str]
    """By their roles: arcface, face_parser, eva_clip, idformer."""
    digests: Mapping[str, str]
    """Of the weights, name to SHA-256."""


def place_of(shelf: Shelf, params: FluxEncodeParams) -> Place:
    """Where a step's networks lie: in the catalogue's folders, or in a folder of one's own.

    Raises:
        InvalidInput: the catalogue has something else of the model's name.
        Permanent: a file or an index is missing, damaged or of unknown digest; says what would help.
        IntegrityError: a file is truncated.
    """
    index = own_index(shelf.folder, params.model)
    if index is None:
        return _of_catalogue(shelf, params.model)
    return _of_own(shelf, params.model, index, None if params.encoder is None else _antelope(shelf))


def _of_catalogue(shelf: Shelf, name: str) -> Place:
    roles = {"idformer": name, "eva_clip": VISION_TOWER, "face_parser": PARSER}
    models = {role: load_models().model(one) for role, one in roles.items()}
    paths = {role: next(iter(shelf.require(model).values())) for role, model in models.items()}
    faces = _antelope(shelf)
    return Place(
        index=PUBLISHED,
        faces=faces,
        parser=paths["face_parser"],
        tower=paths["eva_clip"],
        pulid=paths["idformer"],
        names={**{role: model.name for role, model in models.items()}, "arcface": PACK},
        digests={**{model.name: shelf.digest(model) for model in models.values()}, **faces.digests},
    )


def _of_own(shelf: Shelf, name: str, index: IdentityIndex, faces: Packed | None) -> Place:
    """With its own detector and recogniser where `faces` is None."""
    own, files = own_folder(shelf.folder, name), index.files
    for file in (files.vision_tower, files.face_parser):
        if not (own / file).is_file():
            raise Permanent(f"{own / file} is missing, which {own / INDEX} names. Put it there, or mend that.")
    digest = shelf.own_digest(own.name)
    return Place(
        index=index,
        faces=faces or Packed(ANTELOPEV2, locate(own / files.faces), attributes=False),
        parser=own / files.face_parser,
        tower=own / files.vision_tower,
        pulid=pulid_file(shelf.folder, name),
        names={
            "idformer": name,
            "eva_clip": f"{name}/{files.vision_tower}",
            "face_parser": f"{name}/{files.face_parser}",
            "arcface": f"{name}/{files.faces}" if faces is None else PACK,
        },
        digests={**({} if digest is None else {own.name: digest}), **({} if faces is None else faces.digests)},
    )


def _antelope(shelf: Shelf) -> Packed:
    """The catalogue's detector and recogniser."""
    return pack_named(shelf, PACK, attributes=False)


def keys_of(place: Place, device: str) -> frozenset[str]:
    """What `borrowed` borrows, as the Residency names it."""
    dtype = _precision(device)
    others = (_key(path, dtype, device) for path in (place.tower, place.pulid))
    return frozenset({*place.faces.keys(device), parser_key(place.parser, device), *others})


@contextmanager
def borrowed(place: Place, device: str, residency: Residency) -> Iterator[Encoders]:
    """The networks on the device until the block ends: in bf16 on a GPU and in fp32 on a CPU, the parser in fp32.

    Raises:
        Permanent: a file is missing, or is not what it should be.
        ResourceExhausted: they do not fit.
    """
    dtype = _precision(device)
    index = place.index
    with ExitStack() as stack:

        def borrow(path: Path, read: Callable[[], Module], empty: Callable[[], nn.Module]) -> Module:
            def resident() -> Resident[Module]:
                return ModuleResident(f"{path} in {dtype}", read, size_of(empty, dtype), device)

            return stack.enter_context(residency.use(_key(path, dtype, device), resident))

        def parser() -> Resident[FaceParser]:
            return parser_resident(place.parser, device, index.face_parser_width)

        yield Encoders(
            faces=stack.enter_context(place.faces.borrowed(device, residency)),
            parser=stack.enter_context(residency.use(parser_key(place.parser, device), parser)),
            tower=borrow(
                place.tower,
                lambda: load_eva(place.tower, dtype, "cpu", index.vision_tower),
                lambda: EvaTower(index.vision_tower),
            ),
            idformer=borrow(
                place.pulid,
                lambda: load_idformer(place.pulid, dtype, lambda: built(index)),
                lambda: IDFormer(**index.idformer.model_dump()),
            ),
        )


def _precision(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16


def _key(path: Path, kind: torch.dtype, device: str) -> str:
    return f"{path} in {kind} on {device}"


def size_of(empty: Callable[[], nn.Module], dtype: torch.dtype) -> int:
    """What a module takes at most once its weights are of that precision, in bytes; makes it without any."""
    with torch.device("meta"):
        module = empty()
    buffers = sum(one.numel() * max(one.element_size(), dtype.itemsize) for one in module.buffers())
    return buffers + sum(one.numel() for one in module.parameters()) * dtype.itemsize
