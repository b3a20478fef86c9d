"""FLUX.1 transformers from diffusers' folders and from the publisher's single files, and where they fit.

Sources: diffusers `convert_flux_transformer_checkpoint_to_diffusers` and `FluxTransformer2DModel`; the publisher's
`flux/model.py` for the names in single files.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from pydantic import BaseModel, ConfigDict

from shared.contracts.errors import Permanent
from shared.flux.fp8 import read_weights, stored_shapes
from shared.flux.layout import CONFIG, check_names, check_shapes, config_of, shards, some
from shared.models.memory import Footprint, Plan

WIDTH: Final = 3072
INSIDE: Final = "model.diffusion_model."
"""What the transformer's names begin with in a file that holds the whole pipeline."""
BESIDE: Final = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "conditioner.")
"""What the other models' names begin with there."""
T = TypeVar("T")

TRANSFORMER: Final = "FLUX.1 transformer"


class Depth(BaseModel):
    """How many blocks of each kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    double: int
    single: int


FLUX_1: Final = Depth(double=19, single=38)


def load_transformer(
    path: Path,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    depth: Depth = FLUX_1,
) -> FluxTransformer2DModel:
    """A transformer ready to infer.

    Args:
        path: a diffusers folder (the transformer's own or the pipeline's), or a `.safetensors` file with the
            publisher's names: bf16, raw fp8 or scaled fp8, alone or within a whole pipeline's.
        dtype: of the weights in memory; fp8 is widened to it.
        device: where they are to lie. Host memory is needed for one tensor at a time.
        depth: of a single file. A folder's `config.json` says its own.

    Raises:
        Permanent: it is no FLUX.1 transformer, tensors are missing or too many, or the file cannot be read.
    """
    if path.is_dir():
        folder = _transformer_folder(path)
        model = _empty(config_of(folder, "FluxTransformer2DModel"))
        shapes = stored_shapes(shards(folder))
        check_names(path, TRANSFORMER, model.state_dict(), shapes)
        check_shapes(path, model, shapes)
        weights = read_weights(shards(folder), dtype, device)
    else:
        model = _empty(_config_for(path, _transformer_part(stored_shapes([path])), depth))
        # nobody else holds the tensors: the converter takes them one by one, and the fused are never there twice
        weights = convert_flux_transformer_checkpoint_to_diffusers(
            _transformer_part(read_weights([path], dtype, device, lambda name: not name.startswith(BESIDE)))
        )
        check_shapes(path, model, {name: tuple(weight.shape) for name, weight in weights.items()})
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def footprint(path: Path, dtype: torch.dtype = torch.bfloat16) -> Footprint:
    """What a transformer will take, from its files' headers: no weight is read.

    Raises:
        Permanent: as `load_transformer`, where the headers tell.
    """
    files = shards(_transformer_folder(path)) if path.is_dir() else [path]
    shapes = _transformer_part(stored_shapes(files))
    layers: dict[str, int] = defaultdict(int)
    blocks: dict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        layers[name.rpartition(".")[0]] += size
        if "_blocks." in name:
            blocks[".".join(name.split(".")[:2])] += size
    if not blocks:
        raise Permanent(f"{path.name} holds no FLUX.1 transformer: no blocks among {some(sorted(shapes))}.")
    weights = sum(layers.values())
    return Footprint(
        weights=weights,
        largest_block=max(blocks.values()),
        largest_layer=max(layers.values()),
        outside_blocks=weights - sum(blocks.values()),
    )


def stored_bytes(path: Path, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda _: True) -> int:
    """What the tensors of a model take in a dtype, from its files' headers: of a folder all safetensors files in it.

    Raises:
        Permanent: there is no file, or it cannot be read.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise Permanent(f"There is no safetensors file in {path}. Fetch the model again.")
    shapes = stored_shapes(files)
    return sum(math.prod(shape) for name, shape in shapes.items() if wanted(name)) * dtype.itemsize


def settle(transformer: Any, plan: Plan, device: torch.device | str) -> None:
    """Put a loaded transformer where a plan says, so that it computes on the device."""
    target = torch.device(device)
    if plan is Plan.RESIDENT:
        transformer.to(target)
        return
    by_block = plan is Plan.GROUP_OFFLOAD
    transformer.enable_group_offload(
        onload_device=target,
        offload_device=torch.device("cpu"),
        offload_type="block_level" if by_block else "leaf_level",
        num_blocks_per_group=1 if by_block else None,
        use_stream=by_block and target.type == "cuda",
    )


def _transformer_part(tensors: Mapping[str, T]) -> dict[str, T]:
    """Of a whole pipeline's file the transformer, by its own names; of its own file everything."""
    if not any(name.startswith(INSIDE) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(INSIDE): value for name, value in tensors.items() if not name.startswith(BESIDE)}


def _empty(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return FluxTransformer2DModel.from_config(config)


def _config_for(path: Path, published: Mapping[str, tuple[int, ...]], depth: Depth) -> dict[str, Any]:
    """The architecture of a single file, read off its tensors.

    Raises:
        Permanent: they are not those of a FLUX.1 transformer of that depth.
    """
    if "transformer_blocks.0.attn.to_q.weight" in published:
        raise Permanent(f"{path.name} has diffusers' names: name the folder that holds it beside its {CONFIG}.")
    guidance = any(name.startswith("guidance_in.") for name in published)
    check_names(path, TRANSFORMER, published_names(depth, guidance=guidance), published)
    width = published["img_in.weight"][0]
    rows = {published[f"single_blocks.{block}.linear1.weight"][0] for block in range(depth.single)}
    if width != WIDTH or rows != {7 * WIDTH}:
        raise Permanent(f"{path.name} is of another architecture: {width} wide, where FLUX.1 is {WIDTH}.")
    return {
        "patch_size": 1,
        "in_channels": published["img_in.weight"][1],
        "out_channels": published["final_layer.linear.weight"][0],
        "num_layers": depth.double,
        "num_single_layers": depth.single,
        "attention_head_dim": 128,
        "num_attention_heads": WIDTH // 128,
        "joint_attention_dim": published["txt_in.weight"][1],
        "pooled_projection_dim": published["vector_in.in_layer.weight"][1],
        "guidance_embeds": guidance,
        "axes_dims_rope": (16, 56, 56),
    }


def published_names(depth: Depth, *, guidance: bool) -> set[str]:
    """What the publisher calls the tensors of a transformer."""
    embedders = ("time_in", "vector_in", *(["guidance_in"] if guidance else []))
    linears = [f"{embedder}.{layer}" for embedder in embedders for layer in ("in_layer", "out_layer")]
    linears += ["img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1"]
    scales = []
    for block in range(depth.double):
        for side in ("img", "txt"):
            of = f"double_blocks.{block}.{side}"
            linears += [f"{of}_mod.lin", f"{of}_attn.qkv", f"{of}_attn.proj", f"{of}_mlp.0", f"{of}_mlp.2"]
            scales += [f"{of}_attn.norm.query_norm.scale", f"{of}_attn.norm.key_norm.scale"]
    for block in range(depth.single):
        of = f"single_blocks.{block}"
        linears += [f"{of}.linear1", f"{of}.linear2", f"{of}.modulation.lin"]
        scales += [f"{of}.norm.query_norm.scale", f"{of}.norm.key_norm.scale"]
    return {f"{linear}.{part}" for linear in linears for part in ("weight", "bias")} | set(scales)


def _transformer_folder(path: Path) -> Path:
    """The transformer's folder, of a pipeline's or its own."""
    return path / "transformer" if (path / "transformer" / CONFIG).is_file() else path
