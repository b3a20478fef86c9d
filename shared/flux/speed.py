"""Ways to run the same weights faster or in less memory, all off unless asked for: see docs/speed.md.

Sources: diffusers' guides on attention backends, fused projections, regional compilation and caching; torchao's
`Float8Tensor`; C. Zeyi, ParaAttention's first-block cache.
"""

from importlib.util import find_spec
from inspect import signature
from typing import Any, Final

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import attention_backend
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.decode import tile_from
from shared.models.settings import Attention, Fp8, Speed

__all__ = ["Attention", "Fp8", "Speed", "check_takes_loras", "speed_up"]

PACKAGES: Final = {"flash": "flash_attn", "_flash_3": "flash_attn_interface"}
RECOMPILE_LIMIT: Final = 32
"""PyTorch's own of 8 is used up by four kinds of call: with no identity, one, several, and masks."""
FP8_CAPABILITY: Final = (8, 9)
"""Of the first GPUs that multiply in 8-bit floats, and that a compiler can widen them on: Ada, then Hopper."""
SEPARATE: Final = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
"""What fusing makes one of, and another of the text's."""


def speed_up(transformer: Any, vae: Any, speed: Speed, compiler: str = "inductor") -> None:
    """Change models in place, as the settings say; once, before the first picture.

    The order is part of it. PuLID comes before all of this (`shared.flux.pulid.injection.attach`), since a cache must
    hold back the identity with the block. Fusing concatenates plain weights, so it comes before their quantisation.
    The cache lays itself over what blocks do, and the compiler compiles what they do then, so it comes last.

    Args:
        transformer: a FluxTransformer2DModel, on its device, or settled block by block (`shared.flux.loading.settle`).
        vae: an AutoencoderKL.
        speed: the settings. `group_offload` is for whoever loads the transformer.
        compiler: torch's compile backend.

    Raises:
        InvalidInput: it has been done to this transformer already.
        Permanent: a package is not installed, the device cannot, LoRA adapters stand in the way, or the transformer
            has not all its weights on the device. Nothing has been changed then.
    """
    offloaded = _is_offloaded(transformer)
    _check(transformer, speed, offloaded=offloaded)
    if speed.attention is not None:
        _choose(transformer, speed.attention)  # which may find that it cannot be had: nothing has been changed then
    if speed.fused_qkv:
        _fuse(transformer)
    if speed.fp8 is not None:
        _quantise(transformer, speed.fp8)
    tile_from(vae, speed.vae_tiled_from_px)
    if speed.channels_last_vae:
        vae.to(memory_format=torch.channels_last)
    if speed.first_block_cache is not None:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=speed.first_block_cache))
    if speed.compiled_blocks:
        # Not as one whole graph: a cache decides, and offloading copies, in the midst of a block. And who insists on it
        # gets an error for all that comes once the room to recompile is used up, in place of blocks that are not.
        transformer.compile_repeated_blocks(fullgraph=False, backend=compiler, **_room_to_recompile())


def check_takes_loras(transformer: Any) -> None:
    """For whoever is about to load a LoRA adapter.

    Raises:
        Permanent: projections are fused or weights are in fp8.
    """
    for name, done in (("fused_qkv", _is_fused(transformer)), ("fp8", _is_quantised(transformer))):
        if done:
            raise Permanent(
                f"LoRA adapters cannot be had with flux.{name}. Set it off on workers that are to take them."
            )


def check_fp8(kind: Fp8, device: str, capability: tuple[int, int] | None, *, compiled: bool) -> None:
    """Whether a device can do it.

    Args:
        kind: of quantisation.
        device: its type.
        capability: of a CUDA device.
        compiled: whether the blocks are to be compiled.

    Raises:
        Permanent: it cannot; says what can.
    """
    found = f"this one is a {device}" if capability is None else f"this one has {capability[0]}.{capability[1]}"
    wanted = f"needs a GPU of compute capability {FP8_CAPABILITY[0]}.{FP8_CAPABILITY[1]} or later, and {found}."
    able = capability is not None and capability >= FP8_CAPABILITY
    if kind == "weights_and_activations" and not able:
        raise Permanent(f"Multiplying in fp8 {wanted} Set flux.fp8 to weights, for less memory, or leave it out.")
    if kind == "weights" and compiled and capability is not None and not able:
        raise Permanent(f"Compiling fp8 weights {wanted} Leave flux.compiled_blocks or flux.fp8 out.")


def _check(transformer: Any, speed: Speed, *, offloaded: bool) -> None:
    _check_fresh(transformer)
    package = PACKAGES.get(speed.attention or "")
    if package is not None and find_spec(package) is None:
        raise Permanent(f"Attention '{speed.attention}' needs {package}. Install it or choose 'native'.")
    whole = {"fused_qkv": speed.fused_qkv, "fp8": speed.fp8, "first_block_cache": speed.first_block_cache}
    for name, wanted in whole.items():
        if wanted and offloaded:
            raise Permanent(
                f"flux.{name} needs the whole transformer on the device, which has no room for it: it is brought block "
                f"by block. Leave flux.{name} out on this machine, or use a larger one."
            )
    if getattr(transformer, "peft_config", None):
        if speed.fused_qkv:
            raise Permanent("Fusing would leave the LoRA adapters out. Merge them first, or set flux.fused_qkv off.")
        if speed.fp8 is not None:
            raise Permanent("LoRA adapters lie over weights that fp8 would round. Merge them first, or leave fp8 out.")
    if speed.fp8 is not None:
        if find_spec("torchao") is None:
            raise Permanent("flux.fp8 needs torchao. Install it (`pip install torchao`), or leave flux.fp8 out.")
        if speed.fp8 == "weights_and_activations" and transformer.dtype != torch.bfloat16:
            raise Permanent(f"Multiplying in fp8 starts from weights in bf16, and these are {transformer.dtype}.")
        device = next(transformer.parameters()).device
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        check_fp8(speed.fp8, device.type, capability, compiled=speed.compiled_blocks)


def _check_fresh(transformer: Any) -> None:
    done = {
        "its projections are fused": _is_fused(transformer),
        "its weights are in fp8": _is_quantised(transformer),
        "its cache is enabled": transformer.is_cache_enabled,
        "its blocks are compiled": any(
            getattr(block, "_compiled_call_impl", None) is not None for block in transformer.transformer_blocks
        ),
    }
    for found, so in done.items():
        if so:
            raise InvalidInput("transformer", found, "Speed it up once, after PuLID is attached; or load it anew.")


def _choose(transformer: Any, attention: Attention) -> None:
    """Take an attention kernel.

    Raises:
        Permanent: its package is too old.
    """
    try:
        with attention_backend("native"):  # which puts back what it found: the choice is this model's alone
            transformer.set_attention_backend(attention)
    except RuntimeError as error:
        raise Permanent(f"{error} Or choose 'native'.") from error


def _fuse(transformer: Any) -> None:
    """Fuse, and let go of what was fused: diffusers keeps both, 4.3 GB of FLUX.1 in bf16."""
    for module in transformer.modules():
        if isinstance(module, AttentionModuleMixin):
            module.fuse_projections()
            for name in SEPARATE:
                if hasattr(module, name):
                    delattr(module, name)
    transformer.requires_grad_(requires_grad=False)


def _quantise(transformer: Any, kind: Fp8) -> None:
    """Round the blocks' weights to fp8 with a scale for each row; what lies outside of the blocks stays.

    Activations are rounded with a scale for each token, as they come. The modulations then stay as they are: one vector
    goes through them, all tokens feel what it loses, and they take 1 % of the time.
    """
    # torchao is optional, and takes a second to import
    from torchao.quantization import (  # noqa: PLC0415
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    narrow = kind == "weights_and_activations"
    # Its recommended settings of the compiler are the process's, and let fp32 be multiplied in TF32 everywhere.
    config = (
        Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
        if narrow
        else Float8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False)
    )
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        quantize_(
            blocks, config, lambda module, name: isinstance(module, nn.Linear) and not (narrow and ".norm" in name)
        )


def _room_to_recompile() -> dict[str, int]:
    """For this model, or, with a torch before 2.13, for the process."""
    if "recompile_limit" in signature(torch.compile).parameters:
        return {"recompile_limit": RECOMPILE_LIMIT}
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT  # noqa: SLF001
    return {}


def _is_offloaded(transformer: Any) -> bool:
    registries = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
    return any(registry is not None and registry.get_hook("group_offloading") is not None for registry in registries)


def _is_fused(transformer: Any) -> bool:
    return any(getattr(module, "fused_projections", False) for module in transformer.modules())


def _is_quantised(transformer: Any) -> bool:
    return any(is_traceable_wrapper_subclass(weight) for weight in transformer.parameters())
