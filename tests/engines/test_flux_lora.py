"""LoRA adapters add what their two matrices say, as strongly as asked, and only to layers that are there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.lora import drop_lora, load_lora, use_loras
from tests.engines.flux_models import assert_same, predict, tiny

LAYERS = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_v")
RANK = 2


def adapter(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"transformer.{layer}.{part}.weight": torch.randn(shape, generator=generator)
        for layer in LAYERS
        for part, shape in (("lora_A", (RANK, 32)), ("lora_B", (32, RANK)))
    }


def saved(folder: Path, seed: int) -> Path:
    path = folder / f"{seed}.safetensors"
    save_file(adapter(seed), path)
    return path


def merged(strengths: Mapping[int, float]) -> Any:
    """A transformer whose weights are changed by hand."""
    transformer = tiny()
    for seed, strength in strengths.items():
        weights = adapter(seed)
        for layer in LAYERS:
            change = weights[f"transformer.{layer}.lora_B.weight"] @ weights[f"transformer.{layer}.lora_A.weight"]
            transformer.get_submodule(layer).weight.data += strength * change
    return transformer


def test_an_adapter_adds_its_product(tmp_path: Path) -> None:
    transformer = tiny()
    load_lora(transformer, saved(tmp_path, 1), "one")
    use_loras(transformer, {"one": 1.0})
    assert_same(predict(transformer), predict(merged({1: 1.0})))
    assert (predict(transformer) - predict(tiny())).abs().max() > 1e-2
    assert not any(value.requires_grad for value in transformer.parameters())


def test_several_adapters_each_at_its_strength_and_at_rest(tmp_path: Path) -> None:
    transformer = tiny()
    load_lora(transformer, saved(tmp_path, 1), "one")
    load_lora(transformer, saved(tmp_path, 2), "two")
    use_loras(transformer, {"one": 0.5, "two": 0.25})
    assert_same(predict(transformer), predict(merged({1: 0.5, 2: 0.25})))
    use_loras(transformer, {"two": 0.75})
    assert_same(predict(transformer), predict(merged({2: 0.75})))
    use_loras(transformer, {})
    assert_same(predict(transformer), predict(tiny()))
    use_loras(transformer, {"one": 1.0})
    assert_same(predict(transformer), predict(merged({1: 1.0})))


def test_an_adapter_can_be_taken_out_again(tmp_path: Path) -> None:
    transformer = tiny()
    for name, seed in (("one", 1), ("two:dots", 2)):
        load_lora(transformer, saved(tmp_path, seed), name)
    drop_lora(transformer, "one")
    use_loras(transformer, {"two:dots": 0.5})
    assert_same(predict(transformer), predict(merged({2: 0.5})))
    assert not any(".one." in name for name, _ in transformer.named_parameters())


def test_an_adapter_is_held_in_the_transformers_precision(tmp_path: Path) -> None:
    transformer = tiny().bfloat16()
    load_lora(transformer, saved(tmp_path, 1), "one")
    assert {value.dtype for value in transformer.parameters()} == {torch.bfloat16}


def test_alpha_over_rank_scales(tmp_path: Path) -> None:
    path = tmp_path / "alpha.safetensors"
    alphas = {f"transformer.{layer}.alpha": torch.tensor(1.0) for layer in LAYERS}
    save_file(adapter(1) | alphas, path)
    transformer = tiny()
    load_lora(transformer, path, "one")
    use_loras(transformer, {"one": 1.0})
    assert_same(predict(transformer), predict(merged({1: 1.0 / RANK})))


def test_a_layer_without_alpha_is_not_scaled_by_those_that_have_one(tmp_path: Path) -> None:
    path, wanted, weights = tmp_path / "alpha.safetensors", tiny(), adapter(1)
    save_file(weights | {f"transformer.{LAYERS[0]}.alpha": torch.tensor(1.0)}, path)
    for layer, scale in zip(LAYERS, (1.0 / RANK, 1.0), strict=True):
        change = weights[f"transformer.{layer}.lora_B.weight"] @ weights[f"transformer.{layer}.lora_A.weight"]
        wanted.get_submodule(layer).weight.data += scale * change
    transformer = tiny()
    load_lora(transformer, path, "one")
    use_loras(transformer, {"one": 1.0})
    assert_same(predict(transformer), predict(wanted))


@pytest.mark.parametrize(("described", "scales"), [
    ({"lora_alpha": 6, "r": RANK}, (3.0, 3.0)),
    ({"lora_alpha": 6, "r": RANK, "use_rslora": True}, (6 / RANK**0.5,) * 2),
    ({"lora_alpha": RANK, "r": RANK, "alpha_pattern": {"single_transformer_blocks.1.attn.to_v": 1}}, (1.0, 0.5)),
])  # fmt: skip
def test_the_alpha_in_the_header_of_diffusers_trainers_scales(
    tmp_path: Path, described: dict[str, object], scales: tuple[float, float]
) -> None:
    """They write PEFT's settings there, and no alpha among the tensors."""
    path, wanted, weights = tmp_path / "trained.safetensors", tiny(), adapter(1)
    told = {f"transformer.{name}": value for name, value in described.items()}
    save_file(weights, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    for layer, scale in zip(LAYERS, scales, strict=True):
        change = weights[f"transformer.{layer}.lora_B.weight"] @ weights[f"transformer.{layer}.lora_A.weight"]
        wanted.get_submodule(layer).weight.data += scale * change
    transformer = tiny()
    load_lora(transformer, path, "one")
    use_loras(transformer, {"one": 1.0})
    assert_same(predict(transformer), predict(wanted))


@pytest.mark.parametrize("told", ["{", "[]", '{"transformer.lora_alpha": "much"}', '{"transformer.alpha_pattern": 3}'])
def test_a_header_that_cannot_be_understood_is_refused(tmp_path: Path, told: str) -> None:
    path = tmp_path / "trained.safetensors"
    save_file(adapter(1), path, metadata={"lora_adapter_metadata": told})
    with pytest.raises(Permanent, match="its header"):
        load_lora(tiny(), path, "one")


@pytest.mark.parametrize("name", ["dora_scale", "lora_magnitude_vector"])
def test_weights_split_into_length_and_direction_are_refused(tmp_path: Path, name: str) -> None:
    """DoRA: diffusers would leave the lengths out, with a line in the log, and paint something else."""
    path = tmp_path / "dora.safetensors"
    save_file(adapter(1) | {f"transformer.{LAYERS[0]}.{name}": torch.ones(32)}, path)
    with pytest.raises(Permanent, match="DoRA"):
        load_lora(tiny(), path, "one")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"transformer.blocks.7.lora_A.weight": torch.ones(2, 32)}, path)
    with pytest.raises(Permanent, match=r"1 layers that it has not, .*: transformer\.blocks\.7"):
        load_lora(tiny(), path, "other")
    save_file(adapter(1) | {"text_encoder.layer.lora_A.weight": torch.ones(2, 32)}, path)
    with pytest.raises(Permanent, match=r"text_encoder\.layer"):
        load_lora(tiny(), path, "other")
    save_file({"conv.weight": torch.ones(2)}, path)
    with pytest.raises(Permanent, match="no LoRA adapter"):
        load_lora(tiny(), path, "other")


QUERY, KOHYA = "transformer.transformer_blocks.0.attn.to_q", "lora_unet_single_blocks_0_linear1"


@pytest.mark.parametrize(("weights", "said"), [
    ({f"{QUERY}.lora_A.weight": (RANK, 48), f"{QUERY}.lora_B.weight": (48, RANK)}, "attn.to_q"),
    ({f"{QUERY}.lora_A.weight": (RANK, 32)}, "attn.to_q"),
    ({"transformer.transformer_blocks.0.lora_A.weight": (RANK, 32),
      "transformer.transformer_blocks.0.lora_B.weight": (32, RANK)}, "transformer_blocks.0"),
    ({f"{KOHYA}.lora_down.weight": (RANK, 32), f"{KOHYA}.lora_up.weight": (224, RANK)}, "no LoRA adapter"),
])  # fmt: skip
def test_an_adapter_of_another_size_or_in_halves_is_refused(
    tmp_path: Path, weights: dict[str, tuple[int, int]], said: str
) -> None:
    path, transformer = tmp_path / "other.safetensors", tiny()
    sound = adapter(1) if "lora_unet" not in next(iter(weights)) else {}
    for name in [name for name in sound if name.startswith(QUERY)]:
        del sound[name]
    save_file(sound | {name: torch.ones(shape) for name, shape in weights.items()}, path)
    with pytest.raises(Permanent, match=said):
        load_lora(transformer, path, "other")
    assert not getattr(transformer, "peft_config", {})
    assert torch.equal(predict(transformer), predict(tiny()))


def test_names_are_unique_and_known(tmp_path: Path) -> None:
    transformer = tiny()
    with pytest.raises(InvalidInput, match="no adapter 'one'"):
        use_loras(transformer, {"one": 1.0})
    load_lora(transformer, saved(tmp_path, 1), "one")
    with pytest.raises(InvalidInput, match="already"):
        load_lora(transformer, saved(tmp_path, 2), "one")
