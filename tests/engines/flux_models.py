"""A FLUX transformer small enough for tests, and what it predicts."""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel


def tiny(**more: Any) -> Any:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        **{
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True,
        }
        | more
    ).eval()


def predict(transformer: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = transformer.dtype
    with torch.no_grad():
        predicted: torch.Tensor = transformer(
            hidden_states=torch.randn(1, 4, 16, generator=generator).to(dtype),
            encoder_hidden_states=torch.randn(1, 3, 32, generator=generator).to(dtype),
            pooled_projections=torch.randn(1, 32, generator=generator).to(dtype),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.zeros(4, 3),
            txt_ids=torch.zeros(3, 3),
            return_dict=False,
        )[0]
    return predicted


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """As nearly as sums in another order allow: where weights lie in memory decides on the order."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
