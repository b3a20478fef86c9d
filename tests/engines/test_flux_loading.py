"""FLUX transformers are read whole from every format they are published in, or refused with what is wrong."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from shared.contracts.errors import Permanent
from shared.flux.fp8 import dequantised, read_weights
from shared.flux.layout import WEIGHTS
from shared.flux.loading import (
    WIDTH,
    Depth,
    footprint,
    load_transformer,
    published_names,
    settle,
    stored_bytes,
)
from shared.models.memory import Footprint, Plan
from tests.engines.flux_models import assert_same, predict, tiny

SHALLOW = Depth(double=1, single=1)
FP8 = torch.float8_e4m3fn
KINDS = {torch.bfloat16: "BF16", torch.float32: "F32", FP8: "F8_E4M3"}
FLUX_1 = Footprint(
    weights=23_802_816_640, largest_block=679_662_592, largest_layer=113_283_072, outside_blocks=128_249_984
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A diffusers folder."""
    tiny().save_pretrained(tmp_path / "flux")
    return tmp_path / "flux"


def changed(folder: Path, **change: torch.Tensor | None) -> Path:
    """The folder with tensors added, replaced or (None) taken away; `__` in a name stands for a dot."""
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in change.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_a_diffusers_folder_predicts_what_was_saved(folder: Path) -> None:
    loaded = load_transformer(folder, torch.float32)
    assert_same(predict(loaded), predict(tiny()))
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())


def test_a_folder_in_several_files_and_within_a_pipeline_s(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "transformer", max_shard_size="50KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    assert_same(predict(load_transformer(tmp_path, torch.float32)), predict(tiny()))


def test_the_type_of_the_weights_is_chosen(folder: Path) -> None:
    assert {value.dtype for value in load_transformer(folder).parameters()} == {torch.bfloat16}


def test_raw_fp8_is_widened(folder: Path) -> None:
    narrow = {name: value.to(FP8) for name, value in load_file(folder / WEIGHTS).items()}
    save_file(narrow, folder / WEIGHTS)
    loaded = load_transformer(folder, torch.float32).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in narrow.items())


def scaled(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().max() / 448.0
    return (weight / scale).to(FP8), scale.reshape(1)


def test_scaled_fp8_is_multiplied_by_its_scales_in_both_spellings(folder: Path) -> None:
    plain = load_file(folder / WEIGHTS)
    older, newer = "x_embedder", "proj_out"
    weights = {layer: scaled(plain[f"{layer}.weight"]) for layer in (older, newer)}
    stored = plain | {f"{layer}.weight": weight for layer, (weight, _) in weights.items()}
    stored |= {
        "scaled_fp8": torch.empty(0, dtype=FP8),
        f"{older}.scale_weight": weights[older][1],
        f"{older}.scale_input": torch.ones(1),
        f"{newer}.weight_scale": weights[newer][1].reshape(()),
        f"{newer}.input_scale": torch.ones(()),
        f"{newer}.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
    }
    save_file(stored, folder / WEIGHTS)
    loaded = load_transformer(folder, torch.float32).state_dict()
    for layer, (weight, scale) in weights.items():
        assert torch.equal(loaded[f"{layer}.weight"], weight.float() * scale)
        # e4m3 has 3 bits behind the point, so half a step is 1/16 of a value
        torch.testing.assert_close(loaded[f"{layer}.weight"], plain[f"{layer}.weight"], rtol=1 / 16, atol=1e-4)
    assert torch.equal(loaded["x_embedder.bias"], plain["x_embedder.bias"])


def test_a_scale_for_each_row_multiplies_the_rows() -> None:
    weight, scale = torch.ones(3, 2).to(FP8), torch.tensor([1.0, 2.0, 4.0])
    expected = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    assert torch.equal(dequantised(weight, scale, torch.float32), expected)
    assert torch.equal(dequantised(weight, scale[:, None], torch.float32), expected)
    with pytest.raises(Permanent, match=r"shape \[2\]"):
        dequantised(weight, torch.ones(2), torch.float32)


@pytest.mark.parametrize("narrow", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("wide", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [None, 0.0137])
def test_every_fp8_value_becomes_what_torch_makes_of_it(
    narrow: torch.dtype, wide: torch.dtype, scale: float | None
) -> None:
    """Infinities and values that are no numbers, too."""
    values = torch.arange(256).byte().view(narrow).reshape(8, 32)
    found = dequantised(values, None if scale is None else torch.tensor([scale]), wide)
    expected = (values.float() * torch.tensor(1.0 if scale is None else scale)).to(wide)
    assert found.dtype == wide
    assert torch.equal(found.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    assert dequantised(values[3, 3], None, wide).shape == ()


def test_scaling_is_rounded_once() -> None:
    """In fp32, not in bf16 as the product of two rounded numbers."""
    weight, scale = torch.tensor([[1.125]]).to(FP8), torch.tensor(1.0039)
    assert dequantised(weight, scale, torch.bfloat16).item() == torch.tensor(1.125 * 1.0039).bfloat16().item()


def save_quantised(path: Path, layout: str, *, scale: bool, in_metadata: bool) -> None:
    about = {"format": layout}
    tensors = {"layer.weight": torch.ones(2, 2).to(FP8)}
    if scale:
        tensors["layer.weight_scale"] = torch.ones(())
    metadata = {}
    if in_metadata:
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": {"layer": about}})
    else:
        tensors["layer.comfy_quant"] = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("in_metadata", [False, True])
def test_another_quantised_format_is_refused_by_name(tmp_path: Path, in_metadata: bool) -> None:
    path = tmp_path / "odd.safetensors"
    save_quantised(path, "nvfp4", scale=True, in_metadata=in_metadata)
    with pytest.raises(Permanent, match="layer as nvfp4"):
        read_weights([path], torch.float32)


@pytest.mark.parametrize("in_metadata", [False, True])
def test_a_quantised_layer_without_its_scale_is_refused(tmp_path: Path, in_metadata: bool) -> None:
    path = tmp_path / "odd.safetensors"
    save_quantised(path, "float8_e4m3fn", scale=False, in_metadata=in_metadata)
    with pytest.raises(Permanent, match=r"no scale for layer\.weight"):
        read_weights([path], torch.float32)


@pytest.mark.parametrize("about", [b"e4m3", b"[1]", b"\xff\xfe"])
def test_a_garbled_description_of_the_format_is_told(tmp_path: Path, about: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"layer.weight": torch.ones(2, 2), "layer.comfy_quant": torch.tensor(list(about)).byte()}, path)
    with pytest.raises(Permanent, match="does not say in JSON"):
        read_weights([path], torch.float32)


def test_integers_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "odd.safetensors")
    with pytest.raises(Permanent, match=r"layer\.weight as torch\.int8"):
        read_weights([tmp_path / "odd.safetensors"], torch.float32)


def test_missing_and_unexpected_tensors_are_named_and_counted(folder: Path) -> None:
    names = list(load_file(folder / WEIGHTS))[:12]
    with pytest.raises(Permanent) as said:
        load_transformer(changed(folder, **dict.fromkeys(names), stray__weight=torch.ones(1)))
    assert "12 tensors are missing" in str(said.value)
    assert all(name in str(said.value) for name in sorted(names)[:10])
    assert sorted(names)[10] not in str(said.value)
    assert "1 tensors are not expected: stray.weight" in str(said.value)


def test_a_scale_without_its_weight_is_unexpected(folder: Path) -> None:
    with pytest.raises(Permanent, match=r"not expected: stray\.weight_scale"):
        load_transformer(changed(folder, stray__weight_scale=torch.ones(1)))


def test_a_tensor_of_another_shape_is_another_architecture(folder: Path) -> None:
    with pytest.raises(Permanent, match=r"x_embedder\.bias \[7\] for \[32\]"):
        load_transformer(changed(folder, x_embedder__bias=torch.ones(7)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "holds a SD3Transformer2DModel"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised by bitsandbytes"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder: Path, change: dict[str, object], says: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(Permanent, match=says):
        load_transformer(folder)


def test_pickles_are_never_loaded(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(Permanent, match="pickled weights are never loaded"):
        load_transformer(folder)
    with pytest.raises(Permanent, match="Pickled weights are never loaded"):
        load_transformer(folder / "diffusion_pytorch_model.bin")


def test_damaged_and_absent_files_are_told(folder: Path, tmp_path: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-9])
    with pytest.raises(Permanent, match="damaged"):
        load_transformer(folder)
    with pytest.raises(Permanent, match="no file"):
        load_transformer(tmp_path / "absent.safetensors")
    with pytest.raises(Permanent, match="no diffusers folder"):
        load_transformer(tmp_path)


def test_another_model_s_single_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"distilled_guidance_layer.in_proj.weight": torch.ones(1)}, path)
    with pytest.raises(Permanent, match=r"776 tensors are missing.*1 tensors are not expected: distilled_guidance_la"):
        load_transformer(path)
    save_file({"transformer_blocks.0.attn.to_q.weight": torch.ones(1)}, path)
    with pytest.raises(Permanent, match="diffusers' names"):
        load_transformer(path)


def test_what_flux_1_dev_takes_in_bf16() -> None:
    """The figures that the plans are tried with, read off diffusers' own model."""
    with torch.device("meta"):
        sizes = {
            name: 2 * value.numel() for name, value in FluxTransformer2DModel(guidance_embeds=True).named_parameters()
        }
    assert sum(sizes.values()) == FLUX_1.weights
    block = sum(size for name, size in sizes.items() if name.startswith("transformer_blocks.0."))
    assert block == FLUX_1.largest_block
    outside = sum(size for name, size in sizes.items() if "transformer_blocks." not in name)
    assert outside == FLUX_1.outside_blocks


def test_flux_1_dev_has_780_published_tensors() -> None:
    """The publisher's model has 19 double blocks of 24, 38 single ones of 8, and 20 tensors around them."""
    assert len(published_names(Depth(double=19, single=38), guidance=True)) == 19 * 24 + 38 * 8 + 20


def published_shapes(depth: Depth, *, guidance: bool, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """The tensors of a single file, as the publisher's model has them."""
    rows_of = {"qkv": 3, "_mod.lin": 6, "mlp.0": 4, "linear1": 7, "modulation.lin": 3, "adaLN_modulation.1": 2}
    columns_of = {"img_in": 64, "txt_in": 8, "vector_in.in_layer": 8, "time_in.in_layer": 256}
    columns_of |= {"guidance_in.in_layer": 256, "mlp.2": 4 * width, "linear2": 5 * width}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in published_names(depth, guidance=guidance):
        layer, _, part = name.rpartition(".")
        rows = next((count * width for end, count in rows_of.items() if layer.endswith(end)), width)
        columns = next((count for end, count in columns_of.items() if layer.endswith(end)), width)
        rows = 64 if layer == "final_layer.linear" else rows
        shapes[name] = {"weight": (rows, columns), "bias": (rows,), "scale": (128,)}[part]
    return shapes


def save_sparse(path: Path, shapes: dict[str, tuple[int, ...]], given: dict[str, torch.Tensor]) -> None:
    """A safetensors file of the tensors given and of zeros in bf16, for which it takes no room on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in (shapes | {name: tuple(value.shape) for name, value in given.items()}).items():
        kind = given[name].dtype if name in given else torch.bfloat16
        start, end = end, end + math.prod(shape) * kind.itemsize
        header[name] = {"dtype": KINDS[kind], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, value in given.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(value.reshape(-1).view(torch.uint8).numpy().tobytes())


def rows_told_apart(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Each row holds one value."""
    values = torch.linspace(-2.0, 2.0, shape[0]).to(dtype)
    return values if len(shape) == 1 else values[:, None].expand(shape).contiguous()


def test_the_publisher_s_single_file_in_bf16_and_in_scaled_fp8(tmp_path: Path) -> None:
    """One file of a whole pipeline, at FLUX.1's width with one block of each kind; one of its layers is in fp8."""
    same = {
        "x_embedder.weight": "img_in.weight",
        "transformer_blocks.0.norm1_context.linear.bias": "double_blocks.0.txt_mod.lin.bias",
        "transformer_blocks.0.ff.net.2.bias": "double_blocks.0.img_mlp.2.bias",
        "single_transformer_blocks.0.proj_out.bias": "single_blocks.0.linear2.bias",
        "single_transformer_blocks.0.attn.norm_q.weight": "single_blocks.0.norm.query_norm.scale",
        "proj_out.weight": "final_layer.linear.weight",
    }
    quantised, fused, final = (
        "double_blocks.0.img_attn.qkv",
        "single_blocks.0.linear1",
        "final_layer.adaLN_modulation.1",
    )
    shapes = published_shapes(SHALLOW, guidance=True)
    bf16 = (*same.values(), f"{fused}.bias", f"{final}.bias")
    given = {name: rows_told_apart(shapes[name], torch.bfloat16) for name in bf16}
    given[f"{quantised}.weight"] = rows_told_apart(shapes[f"{quantised}.weight"], FP8)
    inside = {f"{quantised}.scale_weight": torch.tensor(0.25), "scaled_fp8": torch.empty(0, dtype=FP8)}
    path = tmp_path / "flux.safetensors"
    save_sparse(
        path,
        {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}
        | {"vae.decoder.conv_in.weight": (1,)},
        {f"model.diffusion_model.{name}": value for name, value in (given | inside).items()},
    )
    loaded = load_transformer(path, depth=SHALLOW)
    assert (loaded.config.num_layers, loaded.config.num_single_layers) == (1, 1)
    assert loaded.config.guidance_embeds
    found = loaded.state_dict()
    assert {value.dtype for value in found.values()} == {torch.bfloat16}

    assert all(torch.equal(found[ours], given[theirs]) for ours, theirs in same.items())
    qkv = given[f"{quantised}.weight"][:, 0].bfloat16() * 0.25
    for part, name in enumerate(("to_q", "to_k", "to_v")):
        rows = slice(part * WIDTH, (part + 1) * WIDTH)
        assert torch.equal(found[f"transformer_blocks.0.attn.{name}.weight"][:, 7], qkv[rows])
        assert torch.equal(found[f"single_transformer_blocks.0.attn.{name}.bias"], given[f"{fused}.bias"][rows])
    assert torch.equal(found["single_transformer_blocks.0.proj_mlp.bias"], given[f"{fused}.bias"][3 * WIDTH :])
    shift, scale = given[f"{final}.bias"].chunk(2)
    assert torch.equal(found["norm_out.linear.bias"], torch.cat([scale, shift]))


def test_a_single_file_of_another_width_is_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    save_sparse(path, published_shapes(SHALLOW, guidance=False, width=128), {})
    with pytest.raises(Permanent, match=r"128 wide, where FLUX\.1 is 3072"):
        load_transformer(path, depth=SHALLOW)


def test_a_file_that_is_less_deep_lacks_tensors(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_sparse(path, published_shapes(SHALLOW, guidance=True), {})
    with pytest.raises(Permanent, match="728 tensors are missing"):
        load_transformer(path)


def test_what_a_model_takes_is_read_from_its_headers(folder: Path) -> None:
    parameters = {name: value.numel() for name, value in tiny().named_parameters()}
    double = sum(size for name, size in parameters.items() if name.startswith("transformer_blocks.0."))
    blocks = sum(size for name, size in parameters.items() if "transformer_blocks." in name)
    need = footprint(folder, torch.bfloat16)
    assert need.weights == 2 * sum(parameters.values())
    assert need.largest_block == 2 * double
    assert need.outside_blocks == 2 * (sum(parameters.values()) - blocks)
    assert footprint(folder, torch.float32).weights == 2 * need.weights


def test_what_a_folder_or_a_file_takes_is_read_from_its_headers(folder: Path) -> None:
    parameters = {name: value.numel() for name, value in tiny().named_parameters()}
    assert stored_bytes(folder, torch.bfloat16) == 2 * sum(parameters.values())
    wanted = stored_bytes(folder / WEIGHTS, torch.float32, lambda name: name == "proj_out.bias")
    assert wanted == 4 * parameters["proj_out.bias"]
    with pytest.raises(Permanent, match="no safetensors file in"):
        stored_bytes(folder.parent, torch.float32)


@pytest.mark.parametrize("plan", list(Plan))
def test_every_plan_predicts_the_same(folder: Path, plan: Plan) -> None:
    loaded = load_transformer(folder, torch.float32)
    settle(loaded, plan, "cpu")
    assert_same(predict(loaded), predict(tiny()))
