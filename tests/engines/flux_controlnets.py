"""Tiny ControlNets of random weights for the tiny transformer, one for each kind that is published."""

from typing import Any

import torch
from diffusers import FluxControlNetModel

from shared.flux import tiny

ROPE = (4, 6, 6)
UNION_PRO_2 = "flux-controlnet-union-pro-2.0"


def controlnet(seed: int = 0, double: int = 1, single: int = 2, **more: Any) -> Any:
    """One for the tiny transformer. As published its answers begin at zero: here they are random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 100)
        net: Any = FluxControlNetModel(
            **{
                "in_channels": 64, "num_layers": double, "num_single_layers": single, "attention_head_dim": 16,
                "num_attention_heads": 2, "joint_attention_dim": tiny.WIDTH, "pooled_projection_dim": tiny.WIDTH,
                "axes_dims_rope": ROPE, "guidance_embeds": True,
            } | more
        )  # fmt: skip
        outputs = [*net.controlnet_blocks, *net.controlnet_single_blocks, net.controlnet_x_embedder]
        if net.input_hint_block is not None:
            outputs.append(net.input_hint_block.conv_out)
        for output in outputs:
            torch.nn.init.normal_(output.weight, std=0.2)
    return net.eval()


def union() -> Any:
    """As InstantX's: it embeds the kind of drawing."""
    return controlnet(num_mode=7)


def xlabs() -> Any:
    """As XLabs': it reads pixels itself, and its residuals take turns."""
    return controlnet(1, double=2, single=0, patch_size=2, conditioning_embedding_channels=16, guidance_embeds=False)
