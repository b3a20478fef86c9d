"""PuLID's cross-attention against an evaluation of its formula that shares no code with it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.flux.pulid.attention import PerceiverAttentionCA

Array = NDArray[np.float64]


def test_it_is_the_published_formula() -> None:
    """Within 1e-5 in fp32 of a float64 evaluation in plain NumPy, for several widths, batches and lengths."""
    for seed, (batch, tokens, ids, dim, id_dim, heads, head_dim) in enumerate(
        [(1, 5, 3, 12, 8, 2, 4), (2, 33, 32, 32, 24, 4, 16), (3, 64, 64, 48, 40, 3, 128)]
    ):
        torch.manual_seed(seed)
        attention = _randomised(PerceiverAttentionCA(dim, id_dim, heads, head_dim))
        identity, image = torch.randn(batch, ids, id_dim) * 3, torch.randn(batch, tokens, dim) * 3
        with torch.no_grad():
            found = attention(identity, image).numpy()
        wanted = _by_hand({name: one.double().numpy() for name, one in attention.state_dict().items()}, heads, head_dim)
        np.testing.assert_allclose(found, wanted(identity.double().numpy(), image.double().numpy()), atol=1e-5, rtol=0)


def test_large_logits_stay_finite_in_bf16() -> None:
    """The softmax is taken in fp32: logits of some hundreds neither overflow nor lose the winner."""
    torch.manual_seed(0)
    attention = PerceiverAttentionCA(dim=32, id_dim=24, heads=2, head_dim=64)
    with torch.no_grad():
        attention.to_q.weight.mul_(30)
        attention.to_kv.weight.mul_(30)
    identity, image = torch.randn(1, 32, 24), torch.randn(1, 16, 32)
    with torch.no_grad():
        exact = attention(identity, image)
        rough = attention.bfloat16()(identity.bfloat16(), image.bfloat16()).float()
    assert torch.isfinite(rough).all()
    cosine = torch.nn.functional.cosine_similarity(rough.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.99


def test_the_weights_have_the_published_names_and_shapes() -> None:
    """140 tensors in 20 modules: seven each, at FLUX's full width, 419.6 million parameters."""
    with torch.device("meta"):
        attention = PerceiverAttentionCA()
    assert {name: tuple(one.shape) for name, one in attention.state_dict().items()} == {
        "norm1.weight": (2048,),
        "norm1.bias": (2048,),
        "norm2.weight": (3072,),
        "norm2.bias": (3072,),
        "to_q.weight": (2048, 3072),
        "to_kv.weight": (4096, 2048),
        "to_out.weight": (3072, 2048),
    }
    assert 20 * sum(one.numel() for one in attention.parameters()) == pytest.approx(419.6e6, rel=1e-3)


def _randomised(attention: PerceiverAttentionCA) -> PerceiverAttentionCA:
    """Norms that do something: PyTorch starts them as the identity."""
    with torch.no_grad():
        for norm in (attention.norm1, attention.norm2):
            norm.weight.normal_(1, 0.3)
            norm.bias.normal_(0, 0.3)
    return attention


def _by_hand(weights: dict[str, Array], heads: int, head_dim: int) -> Callable[[Array, Array], Array]:
    def normalised(tokens: Array, name: str) -> Array:
        centred = tokens - tokens.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def evaluate(identity: Array, image: Array) -> Array:
        inner = heads * head_dim
        answer = np.zeros_like(image)
        for one in range(len(image)):
            ids, pixels = normalised(identity[one], "norm1"), normalised(image[one], "norm2")
            query, both = pixels @ weights["to_q.weight"].T, ids @ weights["to_kv.weight"].T
            seen = np.zeros((len(pixels), inner))
            for head in range(heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                key, value = both[:, :inner][:, part], both[:, inner:][:, part]
                logits = (query[:, part] * head_dim**-0.25) @ (key * head_dim**-0.25).T
                chance = np.exp(logits - logits.max(-1, keepdims=True))
                seen[:, part] = (chance / chance.sum(-1, keepdims=True)) @ value
            answer[one] = seen @ weights["to_out.weight"].T
        return answer

    return evaluate
