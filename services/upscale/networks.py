"""Where the GPU engine's networks lie, and how they are borrowed for the time of a step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from services.upscale.stage import FluxImageParams
from shared.contracts.errors import InvalidInput
from shared.models.catalogue import load_models
from shared.models.residency import Residency
from shared.models.shelf import Shelf
from shared.models.single import Single, single
from shared.vision.networks.image_models import ImageModel, Kind, image_model_key, image_model_resident
from shared.vision.networks.packs import Packed, pack_named
from shared.vision.networks.restorer import Restorer, restorer_key, restorer_resident

UPSCALER: Kind = "upscaler"
RESTORER: Kind = "face restorer"
ENCODER = "face recognition"
"""Roles in the catalogue."""


@dataclass(frozen=True)
class Place:
    """Where the networks of one step lie. None of those that it does not need."""

    upscaler: Single | None
    restorer: Single | None
    finder: Packed | None

    @property
    def digests(self) -> Mapping[str, str]:
        """Of the weights, name to SHA-256."""
        found = {one.name: one.digest for one in (self.upscaler, self.restorer) if one is not None}
        return found if self.finder is None else {**found, **self.finder.digests}


def place_of(shelf: Shelf, params: FluxImageParams) -> Place:
    """Where a step's networks lie.

    Raises:
        InvalidInput: the catalogue has something else of a model's name.
        Permanent: a file is missing, damaged or not converted; says what would help.
    """
    restores = params.face_restorer != "none" and params.face_visibility > 0
    return Place(
        upscaler=_file(shelf, params.upscaler, UPSCALER, "upscaler") if params.method == "network" else None,
        restorer=_file(shelf, params.face_restorer, RESTORER, "face_restorer") if restores else None,
        finder=_finder(shelf, params.face_encoder) if restores else None,
    )


def keys_of(place: Place, device: str) -> frozenset[str]:
    """What a step borrows, as the Residency names it."""
    keys: set[str] = set()
    if place.upscaler is not None:
        keys.add(image_model_key(place.upscaler.path, UPSCALER, device))
    if place.restorer is not None:
        keys.add(restorer_key(place.restorer.path, device))
    if place.finder is not None:
        keys |= place.finder.keys(device)
    return frozenset(keys)


@contextmanager
def upscaler(of: Single, device: str, residency: Residency) -> Iterator[ImageModel]:
    """The upscaler on the device until the block ends.

    Raises:
        InvalidInput: it is a face restorer.
        Permanent: its file is not what it should be.
        ResourceExhausted: it does not fit.
    """
    with residency.use(
        image_model_key(of.path, UPSCALER, device),
        lambda: image_model_resident(of.path, UPSCALER, device, "upscaler", of.name),
    ) as model:
        yield model


@contextmanager
def restorer(of: Single, device: str, residency: Residency) -> Iterator[Restorer]:
    """The face restorer on the device until the block ends.

    Raises:
        InvalidInput: it is an upscaler.
        Permanent: its file is not what it should be.
        ResourceExhausted: it does not fit.
    """
    with residency.use(
        restorer_key(of.path, device), lambda: restorer_resident(of.path, device, "face_restorer", of.name)
    ) as model:
        yield model


def _file(shelf: Shelf, name: str, role: Kind, field: str) -> Single:
    _check_role(name, role, field)
    return single(shelf, name, ".safetensors", field)


def _finder(shelf: Shelf, name: str) -> Packed:
    """Detector and recogniser alone: nobody asks for sex and age."""
    _check_role(name, ENCODER, "face_encoder")
    return pack_named(shelf, name, attributes=False)


def _check_role(name: str, role: str, field: str) -> None:
    known = load_models().named(name)
    if known is not None and known.role != role:
        others = ", ".join(one.name for one in load_models().values() if one.role == role)
        raise InvalidInput(field, f"{name} is no {role} but of the role {known.role}", f"Name one of {others}.")
