"""PuLID's file is loaded exactly: the published names and shapes, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.contracts.errors import Permanent
from shared.flux.pulid import tiny
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import INDEX, IdentityFiles
from shared.flux.pulid.weights import Pulid, builder_of, load_idformer, load_pulid, published, pulid_file

Shapes = dict[str, tuple[int, ...]]


def _published_layout() -> Shapes:
    """pulid_flux_v0.9.x.safetensors, written out from the published description."""
    shapes: Shapes = {"pulid_encoder.latents": (1, 32, 1024), "pulid_encoder.proj_out": (1024, 2048)}
    for layer in range(10):
        attention, forward = f"pulid_encoder.layers.{layer}.0", f"pulid_encoder.layers.{layer}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{forward}.0"):
            shapes |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
        shapes |= {
            f"{attention}.to_q.weight": (1024, 1024),
            f"{attention}.to_kv.weight": (2048, 1024),
            f"{attention}.to_out.weight": (1024, 1024),
            f"{forward}.1.weight": (4096, 1024),
            f"{forward}.3.weight": (1024, 4096),
        }
    mappings = {f"pulid_encoder.mapping_{scale}": (1024, 1024) for scale in range(5)}
    for mapping, (inward, outward) in (mappings | {"pulid_encoder.id_embedding_mapping": (1280, 5120)}).items():
        for index, shape in (("0", (1024, inward)), ("3", (1024, 1024)), ("6", (outward, 1024))):
            shapes |= {f"{mapping}.{index}.weight": shape, f"{mapping}.{index}.bias": shape[:1]}
        for index in ("1", "4"):
            shapes |= {f"{mapping}.{index}.weight": (1024,), f"{mapping}.{index}.bias": (1024,)}
    for place in range(20):
        attention = f"pulid_ca.{place}"
        for norm, width in (("norm1", 2048), ("norm2", 3072)):
            shapes |= {f"{attention}.{norm}.weight": (width,), f"{attention}.{norm}.bias": (width,)}
        shapes |= {
            f"{attention}.to_q.weight": (2048, 3072),
            f"{attention}.to_kv.weight": (4096, 2048),
            f"{attention}.to_out.weight": (3072, 2048),
        }
    return shapes


def _small() -> Pulid:
    encoder = IDFormer(dim=8, depth=5, heads=2, head_dim=4, queries=2, id_tokens=1, out_dim=6, id_dim=10, vit_dim=8)
    return Pulid(encoder, (PerceiverAttentionCA(dim=12, id_dim=6, heads=2, head_dim=4) for _ in range(2)))


@pytest.fixture
def small(tmp_path: Path) -> Callable[[dict[str, Tensor | None]], Path]:
    """Writes the small model's file with some tensors put in, replaced, or (None) left out."""

    def write(changes: dict[str, Tensor | None]) -> Path:
        state = _small().state_dict() | changes
        path = tmp_path / "pulid.safetensors"
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
        return path

    return write


def test_the_model_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = published().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == _published_layout()
    assert len(state) == 312
    assert round(sum(tensor.numel() for tensor in state.values()) / 1e6) == 571


def test_the_full_size_file_loads_each_tensor_to_its_place(tmp_path: Path) -> None:
    """1.1 GB in bf16, every tensor filled with a number of its own."""
    path = tmp_path / "pulid_flux.safetensors"
    layout = _published_layout()
    marks = dict(zip(layout, range(-156, 156), strict=True))  # bf16 holds whole numbers from -256 to 256 exactly
    save_file({name: torch.full(shape, marks[name], dtype=torch.bfloat16) for name, shape in layout.items()}, path)
    try:
        pulid = load_pulid(path)
    finally:
        path.unlink()
    state = pulid.state_dict()
    assert state.keys() == marks.keys()
    for name, tensor in state.items():
        assert tensor.dtype == torch.bfloat16
        assert tensor.flatten()[[0, -1]].tolist() == [marks[name]] * 2, name
    assert len(pulid.pulid_ca) == 20
    assert not pulid.training
    assert not any(parameter.requires_grad for parameter in pulid.parameters())


def test_what_is_loaded_computes(small: Callable[[dict[str, Tensor | None]], Path]) -> None:
    """Every value arrives, converted to the dtype asked for, and none is left on the meta device."""
    path = small({})
    pulid = load_pulid(path, dtype=torch.float64, build=_small)
    again = load_pulid(path, dtype=torch.float32, build=_small)
    for name, value in pulid.state_dict().items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value.float(), again.state_dict()[name], atol=0, rtol=0)
    identity = pulid.pulid_encoder.unconditional(vit_tokens=3)
    image = torch.ones(1, 4, 12, dtype=torch.float64)
    assert [attention(identity, image).shape for attention in pulid.pulid_ca] == [(1, 4, 12)] * 2


def test_every_fault_is_listed_at_once(small: Callable[[dict[str, Tensor | None]], Path]) -> None:
    path = small(
        {
            "pulid_ca.1.to_q.weight": None,
            "pulid_encoder.latents": None,
            "pulid_ca.2.to_q.weight": torch.zeros(8, 12),
            "pulid_encoder.proj_out": torch.zeros(6, 8),
        }
    )
    with pytest.raises(Permanent) as raised:
        load_pulid(path, build=_small)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "2 missing: pulid_ca.1.to_q.weight, pulid_encoder.latents;" in message
    assert "1 unexpected: pulid_ca.2.to_q.weight;" in message
    assert "1 misshapen: pulid_encoder.proj_out is [6, 8] instead of [8, 6]." in message


def test_a_file_of_another_model_is_told_in_a_few_lines(tmp_path: Path) -> None:
    """Hundreds of names help nobody: the first eight and how many more."""
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(Permanent, match=r"312 missing: .* and 304 more; 1 unexpected: weight\.") as raised:
        load_pulid(path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a pickle"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pulid.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Permanent, match=re.escape(str(path))):
        load_pulid(path)


def test_the_encoder_alone_is_that_of_the_whole(tmp_path: Path) -> None:
    """Read without the cross-attentions, which must be in the file all the same."""
    path = tmp_path / "pulid.safetensors"
    state = _small().state_dict()
    save_file(state, path)
    alone = load_idformer(path, torch.float32, _small)
    whole = load_pulid(path, torch.float32, build=_small).pulid_encoder
    for name, tensor in whole.state_dict().items():
        assert torch.equal(alone.state_dict()[name], tensor), name
    save_file({name: one for name, one in state.items() if name.startswith("pulid_encoder.")}, path)
    with pytest.raises(Permanent, match="missing: pulid_ca"):
        load_idformer(path, torch.float32, _small)


def test_a_folder_of_one_s_own_says_its_file_and_its_sizes(tmp_path: Path) -> None:
    """The catalogue's names have their file and their size where no index stands beside it."""
    index = tiny.IDENTITY.model_copy(update={"files": IdentityFiles(pulid="weights/ours.safetensors")})
    (tmp_path / "ours" / "weights").mkdir(parents=True)
    (tmp_path / "ours" / INDEX).write_text(index.model_dump_json())
    with pytest.raises(Permanent, match=r"weights/ours\.safetensors is missing, which .*identity_index\.json names"):
        pulid_file(tmp_path, "ours")
    save_file(tiny.pulid().state_dict(), tmp_path / "ours" / "weights" / "ours.safetensors")
    loaded = load_pulid(pulid_file(tmp_path, "ours"), torch.float32, build=builder_of(tmp_path, "ours"))
    assert len(loaded.pulid_ca) == index.attentions.count
    assert builder_of(tmp_path, "pulid_flux_v0.9.1") is published
    with pytest.raises(Permanent, match=r"`doctorgen models download pulid_flux_v0\.9\.1` brings it"):
        pulid_file(tmp_path, "pulid_flux_v0.9.1")
