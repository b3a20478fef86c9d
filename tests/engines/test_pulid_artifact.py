"""The identity's blob: what goes in comes out bit for bit, and damage is named."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from shared.contracts.errors import IntegrityError, InvalidInput, Permanent
from shared.contracts.identity import FacePlace
from shared.flux.pulid.artifact import ENTRY, TENSORS, PulidAbout, PulidIdentity, load_identity, save_identity
from shared.flux.pulid.fusion import Fusion

MODELS = {"arcface": "glintr100", "eva_clip": "EVA02_CLIP_L_336_psz14_s6B", "idformer": "pulid_flux_v0.9.1"}
KEY = "subjects/s1/identity.safetensors"


def _identity(
    photos: int = 2,
    fusion: Fusion = "weighted",
    dtype: torch.dtype = torch.float32,
    tokens: int = 32,
    width: int = 2048,
) -> PulidIdentity:
    draw = torch.Generator().manual_seed(7)
    rows = tokens * photos if fusion == "concat" else tokens
    return PulidIdentity(
        id=torch.randn(rows, width, generator=draw).to(dtype),
        uncond=torch.randn(tokens, width, generator=draw).to(dtype),
        arcface=torch.randn(photos, 512, generator=draw),
        about=PulidAbout(models=MODELS, fusion=fusion, photos=photos),
    )


SMALL = save_identity(_identity(tokens=2, width=4))


@pytest.mark.parametrize("fusion", ["weighted", "concat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_loaded_bit_for_bit(fusion: Fusion, dtype: torch.dtype) -> None:
    identity = _identity(3, fusion, dtype)
    read = load_identity(save_identity(identity), KEY)
    for name in TENSORS:
        assert getattr(read, name).dtype == getattr(identity, name).dtype
        assert torch.equal(getattr(read, name), getattr(identity, name))
    assert read.about == identity.about


def test_the_same_identity_gives_the_same_bytes() -> None:
    """Also where the tensors lie otherwise in memory."""
    identity = _identity()
    other = replace(identity, id=identity.id.T.contiguous().T)
    assert not other.id.is_contiguous()
    assert save_identity(other) == save_identity(identity)


def test_where_the_faces_are_is_kept_and_an_identity_that_does_not_say_is_read() -> None:
    """As those are that were written before it was noted."""
    place = FacePlace(photo=0, box=(1.5, 2.0, 30.25, 40.0), others=((50.0, 2.0, 30.0, 40.0),))
    identity = _identity(1)
    told = replace(identity, about=identity.about.model_copy(update={"faces": (place,)}))
    assert load_identity(save_identity(told), KEY).about.faces == (place,)
    assert b"faces" not in save_identity(identity)
    assert load_identity(save_identity(identity), KEY).about.faces is None


@given(st.data())
@settings(max_examples=200)
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    """Wherever it is, the blob is refused by name."""
    broken = bytearray(SMALL)
    broken[data.draw(st.integers(0, len(SMALL) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Permanent, match=KEY):
        load_identity(bytes(broken), KEY)


@pytest.mark.parametrize("length", [0, 4, 100, len(SMALL) - 1])
def test_a_blob_cut_short_is_named(length: int) -> None:
    with pytest.raises(IntegrityError, match=KEY):
        load_identity(SMALL[:length], KEY)


def test_a_safetensors_file_of_something_else_is_named() -> None:
    with pytest.raises(IntegrityError, match=KEY):
        load_identity(save({"weight": torch.zeros(3)}, metadata={"format": "pt"}), KEY)
    with pytest.raises(IntegrityError, match=KEY):
        load_identity(save({"weight": torch.zeros(3)}), KEY)


def test_a_newer_description_is_not_called_damage() -> None:
    length = int.from_bytes(SMALL[:8], "little")
    header = SMALL[8 : 8 + length].decode()
    newer = header.replace('schema_version\\":1', 'schema_version\\":2').encode()
    assert newer != header.encode()
    with pytest.raises(Permanent, match="not understood") as raised:
        load_identity(SMALL[:8] + newer + SMALL[8 + length :], KEY)
    assert not isinstance(raised.value, IntegrityError)


def test_a_tensor_put_in_place_of_another_is_found() -> None:
    """The digest covers names, types and shapes, not only bytes."""
    tensors = load(SMALL)
    length = int.from_bytes(SMALL[:8], "little")
    entry = json.loads(SMALL[8 : 8 + length])["__metadata__"][ENTRY]
    swapped = save({**tensors, "id": tensors["uncond"], "uncond": tensors["id"]}, metadata={ENTRY: entry})
    with pytest.raises(IntegrityError, match="not those that were written"):
        load_identity(swapped, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"id": torch.zeros(1, 32, 2048)},
        {"id": torch.zeros(64, 2048)},
        {"uncond": torch.zeros(32, 1024)},
        {"arcface": torch.zeros(3, 512)},
        {"arcface": torch.zeros(512)},
    ],
)
def test_tensors_that_do_not_agree_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="identity"):
        save_identity(replace(_identity(), **change))
