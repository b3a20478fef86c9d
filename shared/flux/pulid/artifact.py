"""The identity as the GPU engines hand it on: one safetensors blob. Biometric data: kept under the subject's prefix."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shared.contracts.base import Contract, Digest, Name
from shared.contracts.errors import IntegrityError, InvalidInput, Permanent
from shared.contracts.identity import FacePlace
from shared.flux.pulid.fusion import Fusion

ENTRY = "doctorgen.identity"
TENSORS = ("id", "uncond", "arcface")


class PulidAbout(Contract):
    """How an identity came to be."""

    schema_version: Literal[1] = 1
    models: dict[Name, str] = Field(description="role (arcface, eva_clip, idformer, …) to the model's name")
    fusion: Fusion
    photos: Annotated[int, Field(ge=1)]
    faces: tuple[FacePlace, ...] | None = Field(
        default=None, description="whose tokens these are, one a photo; absent where it was not written down"
    )


@dataclass(frozen=True, eq=False)
class PulidIdentity:
    """Who the subject is, in PuLID's tokens."""

    id: Tensor
    """[T, D], T = 32 tokens of D = 2048; of the fusion `concat` [photos * T, D]."""
    uncond: Tensor
    """[T, D]: nobody's, for the negative branch of true CFG."""
    arcface: Tensor
    """[photos, 512]: each photo's raw ArcFace embedding."""
    about: PulidAbout


class _Entry(Contract):
    """What stands in the blob's metadata.

    It is one value because safetensors writes several in an order drawn by lot, and the same identity must give the
    same bytes.
    """

    about: PulidAbout
    sha256: Digest = Field(description="of the tensors' and the description's bytes")


def save_identity(identity: PulidIdentity) -> bytes:
    """The identity as bytes; the same identity gives the same bytes.

    Raises:
        InvalidInput: the tensors' shapes do not agree with one another or with what is said about them.
    """
    tensors = {name: getattr(identity, name).detach().cpu().contiguous() for name in TENSORS}
    fault = _disagreement(tensors, identity.about)
    if fault:
        raise InvalidInput("identity", fault, "Give the tensors of one encoding together.")
    entry = _Entry(about=identity.about, sha256=_digest(tensors, identity.about))
    return save(tensors, metadata={ENTRY: entry.to_json().decode()})


def load_identity(blob: bytes, name: str) -> PulidIdentity:
    """Read an identity back, bit for bit.

    Args:
        blob: what `save_identity` made.
        name: what to call it if it is damaged: its key in the store.

    Raises:
        IntegrityError: the blob is damaged, or is no such blob.
        Permanent: what it says about itself is not understood; a newer release may have written it.
    """
    try:
        tensors = load(blob)
        described = _metadata(blob)[ENTRY]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{name}: this is no PuLID identity, or it is damaged ({error}).") from error
    try:
        entry = _Entry.from_json(described)
    except InvalidInput as error:
        raise Permanent(f"{name}: the identity's description is not understood. {error}") from error
    if tensors.keys() != set(TENSORS) or _digest(tensors, entry.about) != entry.sha256:
        raise IntegrityError(f"{name}: the identity's tensors are not those that were written.")
    return PulidIdentity(id=tensors["id"], uncond=tensors["uncond"], arcface=tensors["arcface"], about=entry.about)


def _metadata(blob: bytes) -> dict[str, str]:
    """The header's free entries, which safetensors hands out of files only: 8 bytes of length, then JSON."""
    length = int.from_bytes(blob[:8], "little")
    entries: dict[str, str] = json.loads(blob[8 : 8 + length])["__metadata__"]
    return entries


def _digest(tensors: dict[str, Tensor], about: PulidAbout) -> str:
    digest = hashlib.sha256(about.to_json())
    for name in TENSORS:
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _disagreement(tensors: dict[str, Tensor], about: PulidAbout) -> str:
    """What is wrong with the shapes, or an empty text."""
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if any(len(shape) != 2 for shape in found.values()):
        return f"shapes {found}, where each must be [rows, width]"
    tokens, width = found["uncond"]
    expected = [tokens * about.photos if about.fusion == "concat" else tokens, width]
    if found["id"] != expected:
        return f"id is {found['id']} where {about.fusion} of {about.photos} photos gives {expected}"
    if found["arcface"][0] != about.photos:
        return f"{found['arcface'][0]} ArcFace embeddings of {about.photos} photos"
    return ""
