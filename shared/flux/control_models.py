"""ControlNets for FLUX as they are published: where they lie, what they know, and how they are read.

Sources: diffusers `FluxControlNetModel` (0.42); the cards of InstantX' and Shakker-Labs' models for modes and kinds.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FluxControlNetModel

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.fp8 import read_weights, stored_shapes
from shared.flux.layout import CONFIG, check_names, check_shapes, config_of, shards
from shared.flux.loading import stored_bytes
from shared.flux.parts import adapter_file, proper_name
from shared.flux.residents import ModuleResident
from shared.models.catalogue import load_models
from shared.models.shelf import Shelf

ROLE: Final = "ControlNet"
"""What it is called in the catalogue."""

CONTROLNET: Final = "ControlNet for FLUX.1"

ROPE: Final = (16, 56, 56)
"""How FLUX.1 shares an attention head's 128 channels among the axes of a position; no file says it."""

UNION_MODES: Final[Mapping[str, int]] = {"canny": 0, "scribble": 0, "depth": 2, "openpose": 4}
"""The mode of each kind of drawing in models that embed one (InstantX Union, Shakker-Labs Union-Pro). They know no
scribbles; their edges come nearest. Modes 1, 3, 5 and 6 are tile, blur, gray and low quality."""

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "flux-controlnet-union-pro-2.0": ("canny", "openpose", "depth", "scribble"),
}
"""What the catalogue's models without modes were trained for. Union-Pro 2.0: canny, soft edge, depth, pose and gray;
a scribble is read as soft edges."""


# Which


def mode_for(model: str, kind: str, net: Any) -> int | None:
    """The mode that a model is to be told for a kind of drawing; None where it embeds no mode.

    Args:
        model: its name. A model that is not in the catalogue is its owner's affair: it takes any kind.
        kind: canny, openpose, depth, scribble or seg.
        net: the model, a `FluxControlNetModel`.

    Raises:
        InvalidInput: it was not trained for that kind.
    """
    modes = net.config.num_mode
    known = (
        KINDS.get(proper_name(model)) if modes is None else [one for one, mode in UNION_MODES.items() if mode < modes]
    )
    if known is not None and kind not in known:
        raise InvalidInput(
            "controls",
            f"{model} was not trained for '{kind}', it knows {', '.join(known)}",
            "Choose one of these, or name a ControlNet of your own that was trained for it.",
        )
    return None if modes is None else UNION_MODES[kind]


# Loading


def control_path(models: Path, name: str) -> Path:
    """Where a ControlNet lies in the models folder, for `load_control`.

    Raises:
        InvalidInput: it is something else, by the catalogue.
        Permanent: it is missing; says which command brings it.
        IntegrityError: a file is cut short.
    """
    known = load_models().named(name)
    if known is not None:
        if known.role != ROLE:
            raise InvalidInput("controls", f"{name} is a {known.role}", "Name a ControlNet for FLUX.1.")
        Shelf(models).require(known)
    own = models / proper_name(name)
    return own if (own / CONFIG).is_file() else adapter_file(models, name)


def load_control(
    path: Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu", rope: Sequence[int] = ROPE
) -> Any:
    """A `FluxControlNetModel` ready to infer.

    Args:
        path: a folder in diffusers' layout, or a `.safetensors` file with diffusers' names, whose architecture is then
            read off its tensors; so is that of a folder with no config.
        dtype: of the weights in memory; fp8 is widened to it.
        device: where they are to lie.
        rope: of a file, the channels for each axis of a position.

    Raises:
        Permanent: it is no ControlNet for FLUX, tensors are missing or too many, or a file cannot be read.
    """
    files = shards(path) if path.is_dir() else [path]
    shapes = stored_shapes(files)
    config = config_of(path, "FluxControlNetModel") if (path / CONFIG).is_file() else _config_for(path, shapes, rope)
    with torch.device("meta"):
        net: Any = FluxControlNetModel.from_config(config)
    check_names(path, CONTROLNET, set(net.state_dict()), set(shapes))
    check_shapes(path, net, shapes)
    net.load_state_dict(read_weights(files, dtype, device), assign=True)
    return net.eval().requires_grad_(requires_grad=False)


def control_resident(path: Path, dtype: torch.dtype, device: torch.device | str) -> ModuleResident[Any]:
    """A ControlNet as a `shared.models.residency.Resident`; the arguments are those of `load_control`.

    Raises:
        Permanent: there is no file, or it cannot be read; what else is wrong is said when it is loaded.
    """
    size = stored_bytes(path, dtype)
    return ModuleResident(f"ControlNet {path.name}", lambda: load_control(path, dtype), size, device)


def _config_for(path: Path, shapes: Mapping[str, tuple[int, ...]], rope: Sequence[int]) -> dict[str, Any]:
    """The architecture, read off the tensors.

    Raises:
        Permanent: those that say it are not there, or it is not FLUX's.
    """
    telling = ("x_embedder.weight", "context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight",
               "transformer_blocks.0.attn.norm_q.weight")  # fmt: skip
    check_names(path, CONTROLNET, set(telling), set(shapes) & set(telling))
    (width, channels), (_, words), (_, pooled), (head,) = (shapes[name] for name in telling)
    hint = shapes.get("input_hint_block.conv_out.weight", (None,))[0]
    if sum(rope) != head:
        raise Permanent(f"{path.name} is of another architecture: heads of {head} channels, FLUX.1 has {sum(rope)}.")
    return {
        "patch_size": 1 if hint is None else math.isqrt(channels // hint),
        "in_channels": channels,
        "num_layers": _blocks(shapes, "transformer_blocks"),
        "num_single_layers": _blocks(shapes, "single_transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": words,
        "pooled_projection_dim": pooled,
        "guidance_embeds": any(name.startswith("time_text_embed.guidance_embedder.") for name in shapes),
        "axes_dims_rope": tuple(rope),
        "num_mode": shapes.get("controlnet_mode_embedder.weight", (None,))[0],
        "conditioning_embedding_channels": hint,
    }


def _blocks(shapes: Mapping[str, tuple[int, ...]], kind: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{kind}.")})
