"""IDFormer against a straight evaluation of its published formulas in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.flux.pulid.idformer import IDFormer

Array = NDArray[np.floating[Any]]
State = dict[str, Array]

TINY = {"dim": 24, "heads": 3, "head_dim": 8, "queries": 4, "id_tokens": 2, "out_dim": 10, "id_dim": 14, "vit_dim": 12}


def _tiny(depth: int = 10) -> IDFormer:
    return _randomised(IDFormer(depth=depth, **TINY))


def _randomised(encoder: IDFormer) -> IDFormer:
    """Every parameter drawn at random, also the norms', whose defaults would hide a mistake."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if value.ndim == 1:
                value.copy_(torch.randn(value.shape, generator=draw) * 0.2 + (1.0 if name.endswith("weight") else 0.0))
            else:
                fan_in = value.shape[0] if name == "proj_out" else value.shape[-1]
                value.copy_(torch.randn(value.shape, generator=draw) * fan_in**-0.5)
    return encoder.eval().requires_grad_(False)


def _inputs(encoder: IDFormer, batch: int, tokens: int, photos: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(4)
    shape = (batch, photos, encoder.id_dim) if photos else (batch, encoder.id_dim)
    hidden = [torch.randn(batch, tokens, encoder.vit_dim, generator=draw) for _ in range(encoder.scales)]
    return torch.randn(shape, generator=draw), hidden


def _norm(x: Array, state: State, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    normed: Array = centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]
    return normed


def _gelu(x: Array) -> Array:
    erf = torch.special.erf(torch.from_numpy(x / math.sqrt(2.0))).numpy()  # NumPy has none
    activated: Array = x * 0.5 * (1.0 + erf)
    return activated


def _mapped(x: Array, state: State, name: str) -> Array:
    for linear, norm in (("0", "1"), ("3", "4")):
        x = _norm(x @ state[f"{name}.{linear}.weight"].T + state[f"{name}.{linear}.bias"], state, f"{name}.{norm}")
        x = np.where(x >= 0, x, x * x.dtype.type(0.01))
    mapped: Array = x @ state[f"{name}.6.weight"].T + state[f"{name}.6.bias"]
    return mapped


def _attention(context: Array, latents: Array, state: State, name: str, heads: int) -> Array:
    """One head of one picture after the other."""
    latents = _norm(latents, state, f"{name}.norm2")
    memory = np.concatenate((_norm(context, state, f"{name}.norm1"), latents), axis=1)
    query, both = latents @ state[f"{name}.to_q.weight"].T, memory @ state[f"{name}.to_kv.weight"].T
    inner = query.shape[-1]
    width = inner // heads
    seen = np.empty_like(query)
    for picture in range(len(query)):
        for start in range(0, inner, width):
            one = slice(start, start + width)
            scores = query[picture, :, one] @ both[picture, :, one].T / query.dtype.type(math.sqrt(width))
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            seen[picture, :, one] = shares @ both[picture, :, inner + start : inner + start + width]
    answer: Array = seen @ state[f"{name}.to_out.weight"].T
    return answer


def reference(
    encoder: IDFormer,
    id_cond: torch.Tensor,
    hidden: list[torch.Tensor],
    dtype: type[np.floating[Any]] = np.float64,
    heads: int = 3,
) -> Array:
    """The published encoder in NumPy, from nothing but its state dict."""
    state: State = {name: value.numpy().astype(dtype) for name, value in encoder.state_dict().items()}
    depth = sum(1 for name in state if name.startswith("layers.") and name.endswith(".0.to_q.weight"))
    batch = len(id_cond)
    dim = state["latents"].shape[-1]
    identity = _mapped(id_cond.numpy().astype(dtype), state, "id_embedding_mapping").reshape(batch, -1, dim)
    latents = np.concatenate((np.repeat(state["latents"], batch, axis=0), identity), axis=1)
    for layer in range(depth):
        scale = layer // (depth // 5)
        vit = _mapped(hidden[scale].numpy().astype(dtype), state, f"mapping_{scale}")
        context = np.concatenate((identity, vit), axis=1)
        latents = latents + _attention(context, latents, state, f"layers.{layer}.0", heads)
        forward = _norm(latents, state, f"layers.{layer}.1.0") @ state[f"layers.{layer}.1.1.weight"].T
        latents = latents + _gelu(forward) @ state[f"layers.{layer}.1.3.weight"].T
    embedding: Array = latents[:, : state["latents"].shape[1]] @ state["proj_out"]
    return embedding


def _difference(found: torch.Tensor, expected: Array) -> float:
    """The largest difference, against the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("depth", [5, 10, 15])
def test_agrees_with_the_formulas(depth: int) -> None:
    encoder = _tiny(depth)
    id_cond, hidden = _inputs(encoder, batch=2, tokens=7)
    assert _difference(encoder(id_cond, hidden), reference(encoder, id_cond, hidden)) < 1e-5


def test_in_double_precision_nothing_is_left_of_the_difference() -> None:
    """So what fp32 leaves is rounding; the softmax, taken in fp32 as published, is the last of it."""
    encoder = _tiny().double()
    id_cond, hidden = _inputs(encoder, batch=1, tokens=7)
    found = encoder(id_cond.double(), [one.double() for one in hidden])
    assert _difference(found, reference(encoder, id_cond, hidden)) < 1e-6


def test_agrees_with_the_formulas_at_full_width() -> None:
    """A layer of each scale, 1024 wide, over the 577 tokens of a real picture."""
    encoder = _randomised(IDFormer(depth=5))
    id_cond, hidden = _inputs(encoder, batch=1, tokens=577)
    found = encoder(id_cond, hidden)
    assert found.shape == (1, 32, 2048)
    assert _difference(found, reference(encoder, id_cond, hidden, np.float32, heads=16)) < 1e-5


def test_several_photos_give_five_tokens_each() -> None:
    """[B, N, width] of identity conditions: N times the identity tokens, in the latents and in every context."""
    encoder = _tiny()
    id_cond, hidden = _inputs(encoder, batch=2, tokens=21, photos=3)
    found = encoder(id_cond, hidden)
    assert found.shape == (2, 4, 10)
    assert _difference(found, reference(encoder, id_cond, hidden)) < 1e-5


def test_one_photo_as_a_list_of_one_is_the_same() -> None:
    encoder = _tiny()
    id_cond, hidden = _inputs(encoder, batch=2, tokens=7)
    torch.testing.assert_close(encoder(id_cond[:, None], hidden), encoder(id_cond, hidden))


def test_unconditional_is_the_encoder_on_zeros() -> None:
    """Not an embedding of zeros, and it tells how many tokens the tower would have given."""
    encoder = _tiny()
    zeros = [torch.zeros(1, 577, encoder.vit_dim)] * 5
    expected = reference(encoder, torch.zeros(1, encoder.id_dim), zeros)
    found = encoder.unconditional()
    assert _difference(found, expected) < 1e-5
    assert found.abs().max() > 0.1
    torch.testing.assert_close(encoder.unconditional(batch=2)[1:], found)
    assert not torch.allclose(encoder.unconditional(vit_tokens=7), found, atol=1e-4)


def test_bfloat16_stays_near() -> None:
    """The dtype that the published pipeline runs it in."""
    encoder = _tiny()
    id_cond, hidden = _inputs(encoder, batch=1, tokens=7)
    exact = encoder(id_cond, hidden)
    rough = encoder.bfloat16()(id_cond.bfloat16(), [one.bfloat16() for one in hidden])
    assert rough.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_hidden_states_is_refused(count: int) -> None:
    encoder = _tiny()
    id_cond, hidden = _inputs(encoder, batch=1, tokens=7)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        encoder(id_cond, (hidden * 2)[:count])


def test_a_depth_that_the_scales_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of its 5 scales"):
        IDFormer(depth=7)
