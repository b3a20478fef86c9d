"""LoRA adapters of FLUX transformers, from the formats that are about.

Source: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021: W becomes
W + strength * alpha / rank * B @ A. diffusers converts the names (its own, kohya's, XLabs', the publisher's control
adapters); PEFT computes.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from peft.utils.other import get_pattern_key
from torch import Tensor

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.fp8 import opened

OURS = "transformer."
DOWN, UP = ".lora_A", ".lora_B"
DORA = ("dora_scale", "lora_magnitude_vector")
"""What the names of its lengths contain in kohya's files and in PEFT's."""


def load_lora(transformer: Any, path: Path, name: str) -> None:
    """Add an adapter to a transformer. Which are in force then, and how strongly, is for `use_loras` to say.

    Args:
        transformer: a FluxTransformer2DModel.
        path: a `.safetensors` file.
        name: what the adapter is to be called; no other may have the name, and no dot may be in it.

    Raises:
        InvalidInput: the name is taken.
        Permanent: the file cannot be read, changes other models too, or layers that the transformer has not; or it is
            a DoRA.
    """
    if name in getattr(transformer, "peft_config", {}):
        raise InvalidInput("name", f"there is an adapter '{name}' already", "Choose another name.")
    with opened(path) as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        header = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    if any(kind in key for key in stored for kind in DORA):
        raise Permanent(f"{path.name} is a DoRA adapter, whose lengths would be left out. Use a plain LoRA.")
    try:
        weights, alphas = FluxLoraLoaderMixin.lora_state_dict(stored, return_alphas=True)
    except (KeyError, ValueError, AssertionError, IndexError, NotImplementedError) as error:
        raise Permanent(f"{path.name} is no LoRA adapter that can be read ({error}). Use another version.") from error
    if header is not None and not alphas:
        weights = _scaled(weights, header, path)
    weights = {key: weight.to(transformer.dtype) for key, weight in weights.items()}
    layers = {key.partition(".lora")[0] for key in weights}
    strange = sorted(layer for layer in layers if not _fits(transformer, layer, weights))
    if strange or not layers or not all(".lora" in key for key in weights):
        shown = ", ".join(strange[:10]) or "none at all"
        raise Permanent(
            f"{path.name} is no LoRA adapter of this transformer alone. {len(strange)} layers that it has not, or has "
            f"in another size, or that are not whole: {shown}. Use one made for FLUX.1."
        )
    if alphas:  # where a layer says nothing its alpha is its rank, as kohya's and ComfyUI's are; not its neighbour's
        ranks = {
            f"{layer}.alpha": weights[f"{layer}{DOWN}.weight"].shape[0]
            for layer in layers
            if f"{layer}{DOWN}.weight" in weights
        }
        alphas = {**ranks, **{name: float(alpha) for name, alpha in alphas.items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # several are what is wanted
        FluxLoraLoaderMixin.load_lora_into_transformer(
            weights, network_alphas=alphas, transformer=transformer, adapter_name=name
        )
    transformer.requires_grad_(requires_grad=False)
    _maybe_remove_and_reapply_group_offloading(transformer)  # where it is: the new layers take turns with their blocks


def drop_lora(transformer: Any, name: str) -> None:
    """Take an adapter out of a transformer again."""
    transformer.delete_adapters(name)


def use_loras(transformer: Any, strengths: Mapping[str, float]) -> None:
    """Set which adapters are in force and how strongly; the others rest.

    Args:
        transformer: that they were loaded into.
        strengths: of each by name, most often 0 to 1. None at all puts every adapter to rest.

    Raises:
        InvalidInput: there is no adapter of a name.
    """
    loaded = sorted(getattr(transformer, "peft_config", {}))
    for name in strengths:
        if name not in loaded:
            raise InvalidInput("strengths", f"there is no adapter '{name}'", f"Loaded are: {', '.join(loaded)}.")
    if strengths:
        transformer.enable_lora()
        transformer.set_adapters(list(strengths), list(strengths.values()))
        transformer.requires_grad_(requires_grad=False)  # PEFT makes the chosen ones trainable
    elif loaded:
        transformer.disable_lora()


def _fits(transformer: Any, layer: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether the transformer has such a layer, and both matrices are there in its size."""
    try:
        module = transformer.get_submodule(layer.removeprefix(OURS))
        size = (module.out_features, module.in_features)
    except AttributeError:  # there is none, or none that multiplies
        return False
    down, up = (weights.get(f"{layer}{which}.weight") for which in (DOWN, UP))
    if down is None and up is None:  # under older names, which are converted later
        return layer.startswith(OURS)
    return down is not None and up is not None and (up.shape[0], down.shape[1]) == size


def _scaled(weights: Mapping[str, Tensor], header: str, path: Path) -> dict[str, Tensor]:
    """Weights times alpha / rank, where alpha stands in the header alone: diffusers' trainers write PEFT's settings so.

    Only what scales is taken of them: others, such as how weights were begun, would have PEFT change the transformer.

    Raises:
        Permanent: the header cannot be understood.
    """
    try:
        told = {name.removeprefix(OURS): value for name, value in json.loads(header).items() if name.startswith(OURS)}
        pattern = dict(told.get("alpha_pattern") or {})
        power = 0.5 if told.get("use_rslora") else 1.0
        scaled = dict(weights)
        for key, weight in weights.items():
            layer, up, _ = key.partition(UP)
            if up:
                rank = weights[f"{layer}{UP}.weight"].shape[1]
                name = get_pattern_key(list(pattern), layer.removeprefix(OURS))
                scale = float(pattern.get(name, told.get("lora_alpha", rank))) / rank**power
                scaled[key] = weight if math.isclose(scale, 1.0) else (weight.float() * scale).to(weight.dtype)
    except (ValueError, TypeError, AttributeError, KeyError, re.error) as error:
        raise Permanent(f"{path.name} says in its header how it is scaled, and it cannot be read ({error}).") from error
    return scaled
