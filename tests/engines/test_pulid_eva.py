"""EVA02-CLIP's visual tower: its published layout, its features, and what is refused."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from shared.contracts.errors import Permanent
from shared.flux.pulid.eva import MEAN, STD, EvaTower, identity_condition, load_eva, prepare, to_timm
from shared.flux.pulid.index import EvaShape

TINY = EvaShape(
    image_size=28, patch_size=7, width=24, depth=6, heads=3, projected=10, reference_grid=3, taps=(1, 2, 3, 4, 6)
)


def _published_layout(shape: EvaShape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of QuanSun/EVA-CLIP's EVA02_CLIP_L_336_psz14_s6B, as eva_clip/eva_vit_model.py has them."""
    width, hidden, grid = shape.width, int(shape.width * 2.6667), shape.image_size // shape.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "text.token_embedding.weight": (20, 4),
        "visual.cls_token": (1, 1, width),
        "visual.pos_embed": (1, grid**2 + 1, width),
        "visual.patch_embed.proj.weight": (width, 3, shape.patch_size, shape.patch_size),
        "visual.patch_embed.proj.bias": (width,),
        "visual.norm.weight": (width,),
        "visual.norm.bias": (width,),
        "visual.head.weight": (shape.projected, width),
        "visual.head.bias": (shape.projected,),
    }
    for index in range(shape.depth):
        block = f"visual.blocks.{index}"
        for norm, size in (("norm1", width), ("norm2", width), ("attn.inner_attn_ln", width), ("mlp.ffn_ln", hidden)):
            shapes |= {f"{block}.{norm}.weight": (size,), f"{block}.{norm}.bias": (size,)}
        for layer, (out, inward) in {
            "attn.proj": (width, width),
            "mlp.w1": (hidden, width),
            "mlp.w2": (hidden, width),
            "mlp.w3": (width, hidden),
        }.items():
            shapes |= {f"{block}.{layer}.weight": (out, inward), f"{block}.{layer}.bias": (out,)}
        shapes |= {f"{block}.attn.{one}_proj.weight": (width, width) for one in "qkv"}
        shapes |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
    for owner in ("visual", *(f"visual.blocks.{index}.attn" for index in range(shape.depth))):
        rotary = (grid**2, width // shape.heads)
        shapes |= {f"{owner}.rope.freqs_cos": rotary, f"{owner}.rope.freqs_sin": rotary}
    return shapes


def _published_weights(shape: EvaShape = TINY) -> dict[str, Tensor]:
    """A random file of the published layout; also the norms are random, their defaults would hide a mistake."""
    draw = torch.Generator().manual_seed(5)
    state: dict[str, Tensor] = {}
    for name, size in _published_layout(shape).items():
        value = torch.randn(size, generator=draw)
        if len(size) >= 2:
            state[name] = value * size[-1] ** -0.5
        else:
            state[name] = value * 0.2 + (1.0 if name.endswith("weight") else 0.0)
    return state


@pytest.fixture
def tower() -> EvaTower:
    tower = EvaTower(TINY)
    tower.trunk.load_state_dict(to_timm("random weights", _published_weights(), tower))
    return tower.eval().requires_grad_(False)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(6))


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring numbers of [..., N, D] by an angle of [N, D / 2]."""
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(pairs, dim=-1).flatten(-2)


def _angles(shape: EvaShape) -> Tensor:
    """Row angles in the first half of a head, column angles in the second: [patches, head width / 2]."""
    grid, quarter = shape.image_size // shape.patch_size, shape.width // shape.heads // 4
    speeds = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    places = torch.arange(grid, dtype=torch.float64) / grid * shape.reference_grid
    rows, columns = places.repeat_interleave(grid), places.repeat(grid)
    return torch.cat((torch.outer(rows, speeds), torch.outer(columns, speeds)), dim=-1)


def _published_tower(weights: dict[str, Tensor], pixels: Tensor, shape: EvaShape) -> tuple[Tensor, list[Tensor]]:
    """The published model, straight from its own names and in double precision: projected token, every block's end."""
    w = {name.removeprefix("visual."): tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    size = shape.patch_size
    patches = pixels.double().unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)
    tokens = linear(patches.flatten(1, 2), w["patch_embed.proj.weight"].flatten(1), w["patch_embed.proj.bias"])
    x = torch.cat((w["cls_token"].expand(len(pixels), -1, -1), tokens), dim=1) + w["pos_embed"]
    angles, ends = _angles(shape), []
    for index in range(shape.depth):
        block = f"blocks.{index}"
        normed = norm(x, f"{block}.norm1")
        query = linear(normed, w[f"{block}.attn.q_proj.weight"], w[f"{block}.attn.q_bias"])
        key = linear(normed, w[f"{block}.attn.k_proj.weight"])
        value = linear(normed, w[f"{block}.attn.v_proj.weight"], w[f"{block}.attn.v_bias"])
        query, key, value = (one.unflatten(-1, (shape.heads, -1)).transpose(1, 2) for one in (query, key, value))
        query, key = (torch.cat((one[:, :, :1], _turned(one[:, :, 1:], angles)), dim=2) for one in (query, key))
        shares = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        seen = (shares @ value).transpose(1, 2).flatten(2)
        x = x + dense(norm(seen, f"{block}.attn.inner_attn_ln"), f"{block}.attn.proj")
        normed = norm(x, f"{block}.norm2")
        gated = silu(dense(normed, f"{block}.mlp.w1")) * dense(normed, f"{block}.mlp.w2")
        x = x + dense(norm(gated, f"{block}.mlp.ffn_ln"), f"{block}.mlp.w3")
        ends.append(x)
    return dense(norm(x, "norm")[:, 0], "head"), ends


def test_the_features_are_those_of_the_published_model(tower: EvaTower, pixels: Tensor) -> None:
    """Names, rotary positions and taps at once: the published weights, evaluated without timm."""
    found = tower(pixels)
    projected, ends = _published_tower(_published_weights(), pixels, TINY)
    torch.testing.assert_close(found.projected.double(), projected, atol=1e-5, rtol=1e-5)
    for hidden, tap in zip(found.hidden, TINY.taps, strict=True):
        torch.testing.assert_close(hidden.double(), ends[tap - 1], atol=1e-5, rtol=1e-5)


def test_the_features_are_those_of_timms_blocks_run_by_hand(tower: EvaTower, pixels: Tensor) -> None:
    """The residual stream after the named blocks, class token kept, no norm; to the bit."""
    found = tower(pixels)
    x, rope = tower.trunk._pos_embed(tower.trunk.patch_embed(pixels))  # noqa: SLF001 (timm has no public way)
    ends = []
    for block in tower.trunk.blocks:
        x = block(x, rope=rope)
        ends.append(x)
    assert len(found.hidden) == 5
    assert all(torch.equal(hidden, ends[tap - 1]) for hidden, tap in zip(found.hidden, TINY.taps, strict=True))
    assert torch.equal(found.projected, tower.trunk.head(tower.trunk.norm(x)[:, 0]))


def test_the_published_layout_fits_at_full_size() -> None:
    """On the meta device: 24 blocks, 1024 wide, SwiGLU 2730, 577 tokens, and the taps after 4, 8, 12, 16, 20."""
    with torch.device("meta"):
        tower = EvaTower()
        published = {name: torch.empty(shape) for name, shape in _published_layout(EvaShape()).items()}
        state = to_timm("published", published, tower)
        features = tower(torch.empty(1, 3, 336, 336))
    assert published["visual.blocks.0.mlp.w1.weight"].shape == (2730, 1024)
    assert published["visual.pos_embed"].shape == (1, 577, 1024)
    tower.trunk.load_state_dict(state, strict=True, assign=True)
    assert [hidden.shape for hidden in features.hidden] == [(1, 577, 1024)] * 5
    assert features.projected.shape == (1, 768)
    assert tower.shape.taps == (4, 8, 12, 16, 20)


def test_a_file_is_loaded_ready_to_use(tower: EvaTower, pixels: Tensor, tmp_path: Path) -> None:
    """Its rotary positions too, which no file holds; its text tower is not looked at."""
    path = tmp_path / "eva.safetensors"
    save_file(_published_weights(), path)
    loaded = load_eva(path, dtype=torch.float32, shape=TINY)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(pixels).projected, tower(pixels).projected)
    half = load_eva(path, shape=TINY)(pixels.bfloat16())
    assert half.projected.dtype == torch.bfloat16
    torch.testing.assert_close(half.projected.float(), tower(pixels).projected, atol=0.1, rtol=0.05)


def _without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in weights.items() if other != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: _without(w, "visual.blocks.1.attn.q_bias"), r"1 missing: blocks\.1\.attn\.q_proj\.bias"),
        (lambda w: w | {"visual.blocks.9.norm1.weight": torch.ones(24)}, r"1 unexpected: blocks\.9\.norm1\.weight"),
        (lambda w: w | {"visual.head.weight": torch.ones(11, 24)}, r"head\.weight is \[11, 24\] instead of \[10, 24\]"),
        (lambda w: w | {"visual.pos_embed": torch.ones(1, 10, 24)}, r"pos_embed is \[1, 10, 24\] instead of"),
        (lambda w: w | {"visual.patch_embed.proj.weight": torch.ones(24, 3, 8, 8)}, r"proj\.weight is \[24, 3, 8, 8\]"),
        (lambda w: _without(w, "visual.pos_embed"), r"no EVA-CLIP visual tower, visual\.pos_embed is missing"),
        (lambda w: {"visual.trunk.pos_embed": torch.ones(1)}, "no EVA-CLIP visual tower"),
        (lambda w: {"weight": torch.ones(1)}, "no EVA-CLIP visual tower"),
    ],
)
def test_another_file_is_refused_with_what_differs(change: object, said: str, tmp_path: Path) -> None:
    """Also one for 224 pixels, whose positions timm's converter would stretch in silence."""
    assert callable(change)
    path = tmp_path / "eva.safetensors"
    save_file(change(_published_weights()), path)
    with pytest.raises(Permanent, match=said) as raised:
        load_eva(path, shape=TINY)
    assert str(path) in str(raised.value)


def test_faces_are_prepared_as_the_published_pipeline_does() -> None:
    """By torchvision's resize and normalisation, 512 -> 336."""
    vision = import_module("torchvision.transforms.functional")  # partly typed
    faces = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(8))
    resized = vision.resize(faces, [336, 336], vision.InterpolationMode.BICUBIC, antialias=True)
    expected = vision.normalize(resized, list(MEAN), list(STD))
    torch.testing.assert_close(prepare(faces), expected, atol=1e-6, rtol=1e-6)


def test_the_identity_condition_is_raw_arcface_then_the_unit_token() -> None:
    arcface, projected = torch.randn(2, 512) * 20.0, torch.randn(2, 768) * 3.0
    condition = identity_condition(arcface, projected)
    assert condition.shape == (2, 1280)
    assert torch.equal(condition[:, :512], arcface)
    torch.testing.assert_close(condition[:, 512:].norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(condition[:, 512:] * projected.norm(dim=-1, keepdim=True), projected)
