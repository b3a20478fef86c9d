"""Ways to run the same weights faster. Each changes results by rounding at most; all are off unless asked for.

Sources: diffusers' guides on attention backends, fused projections and regional compilation.
"""

from importlib.util import find_spec
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.errors import Permanent

Attention = Literal[
    "native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "flash", "_flash_3"
]
"""diffusers' names of attention kernels that are exact up to rounding and that no hub has to be asked for."""

PACKAGES = {"flash": "flash_attn", "_flash_3": "flash_attn_interface"}
RECOMPILE_LIMIT = 32
"""PyTorch's own of 8 is used up by four kinds of call: with no identity, one, several, and masks."""


class Speed(BaseModel):
    """What to do to the models of a pipeline, before the first picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fused_qkv: bool = Field(
        default=False,
        description="One multiplication for query, key and value. FLUX.1 takes 4.3 GB more in bf16, because the three "
        "stay; LoRA adapters must be loaded before it and merged.",
    )
    channels_last_vae: bool = Field(
        default=False,
        description="Store the VAE's convolutions with the channels innermost, as tensor cores read them.",
    )
    compiled_blocks: bool = Field(
        default=False, description="Compile the repeated blocks at the first picture, which then takes minutes longer."
    )
    attention: Attention | None = Field(default=None, description="The attention kernel; None is torch's own choice.")


def speed_up(transformer: Any, vae: Any, speed: Speed, compiler: str = "inductor") -> None:
    """Change models in place, as the settings say.

    Args:
        transformer: a FluxTransformer2DModel.
        vae: an AutoencoderKL.
        speed: the settings.
        compiler: torch's compile backend.

    Raises:
        Permanent: the attention kernel's package is not installed, or LoRA adapters stand in the way of fusing.
    """
    if speed.attention is not None:
        package = PACKAGES.get(speed.attention)
        if package is not None and find_spec(package) is None:
            raise Permanent(f"Attention '{speed.attention}' needs {package}. Install it or choose 'native'.")
        transformer.set_attention_backend(speed.attention)
    if speed.fused_qkv:
        if getattr(transformer, "peft_config", None):
            raise Permanent("Fusing would leave the LoRA adapters out. Merge them first, or set fused_qkv off.")
        transformer.fuse_qkv_projections()
        transformer.requires_grad_(requires_grad=False)
    if speed.channels_last_vae:
        vae.to(memory_format=torch.channels_last)
    if speed.compiled_blocks:
        transformer.compile_repeated_blocks(fullgraph=True, backend=compiler, recompile_limit=RECOMPILE_LIMIT)
