"""Where a face swap's networks lie, and how they are borrowed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from services.swap.stage import FluxFaceParams
from services.swap.swapping.swapper import Swapper, open_swapper
from shared.models.onnx import OnnxResident, open_session
from shared.models.residency import Residency
from shared.models.shelf import Shelf
from shared.models.single import Single, single
from shared.vision.networks.packs import Packed, pack_named
from shared.vision.networks.parsing import parser_key, parser_resident
from shared.vision.networks.restorer import Restorer, restorer_key, restorer_resident


@dataclass(frozen=True)
class Place:
    """Where the networks of a step lie. Those that it does not use are None."""

    faces: Packed
    """What finds and describes them, and guesses sex and age."""
    swapper: Single
    parser: Single | None
    occluder: Single | None
    restorer: Single | None
    digests: Mapping[str, str]
    """Of the weights, name to SHA-256."""


@dataclass(frozen=True, eq=False)
class Networks:
    """On the device. Those that a step does not use are None."""

    swapper: Swapper
    parser: nn.Module | None
    occluder: Any
    """An onnxruntime.InferenceSession."""
    restorer: Restorer | None


def place_of(shelf: Shelf, params: FluxFaceParams) -> Place:
    """Where a step's networks lie: in the catalogue's folders, or in folders of one's own.

    Raises:
        InvalidInput: a parameter names a model of another kind.
        Permanent: a file is missing, or a folder of one's own holds something else; says what would help.
        IntegrityError: a file is damaged.
    """
    swapper = single(shelf, params.model, ".onnx", "model")
    parser = single(shelf, params.parser, ".safetensors", "parser") if "parsed" in params.masks else None
    occluder = single(shelf, params.occluder, ".onnx", "occluder") if "occlusion" in params.masks else None
    restorer = single(shelf, params.restorer, ".safetensors", "restorer") if params.restorer != "none" else None
    faces = pack_named(shelf, params.encoder, attributes=True)
    others = {one.name: one.digest for one in (swapper, parser, occluder, restorer) if one is not None}
    return Place(faces, swapper, parser, occluder, restorer, {**faces.digests, **others})


def keys_of(place: Place, device: str) -> frozenset[str]:
    """What `borrowed` borrows, and what finds faces, as the Residency names it."""
    keys = {*place.faces.keys(device), _key(place.swapper, device)}
    keys |= {parser_key(place.parser.path, device)} if place.parser is not None else set()
    keys |= {_key(place.occluder, device)} if place.occluder is not None else set()
    keys |= {restorer_key(place.restorer.path, device)} if place.restorer is not None else set()
    return frozenset(keys)


@contextmanager
def borrowed(place: Place, device: str, residency: Residency) -> Iterator[Networks]:
    """All but what finds faces, until the block ends.

    Raises:
        Permanent: a file is not what it should be.
        ResourceExhausted: they do not fit.
    """
    with ExitStack() as stack:

        def opened(one: Single, how: Callable[[], Any]) -> Any:
            resident = OnnxResident(f"{one.name} of {one.path}", [one.path], how)
            return stack.enter_context(residency.use(_key(one, device), lambda: resident)).it

        swapper, occluder, parser, restorer = place.swapper, place.occluder, place.parser, place.restorer
        yield Networks(
            swapper=opened(swapper, lambda: open_swapper(swapper.name, swapper.path, device)),
            parser=None if parser is None else stack.enter_context(_parser(parser, device, residency)),
            occluder=None if occluder is None else opened(occluder, lambda: open_session(occluder.path, device)),
            restorer=None if restorer is None else stack.enter_context(_restorer(restorer, device, residency)),
        )


@contextmanager
def _restorer(one: Single, device: str, residency: Residency) -> Iterator[Restorer]:
    key = restorer_key(one.path, device)
    with residency.use(key, lambda: restorer_resident(one.path, device, name=one.name)) as restorer:
        yield restorer


@contextmanager
def _parser(one: Single, device: str, residency: Residency) -> Iterator[nn.Module]:
    with residency.use(parser_key(one.path, device), lambda: parser_resident(one.path, device)) as parser:
        yield parser


def _key(one: Single, device: str) -> str:
    return f"{one.path} on {device}"
