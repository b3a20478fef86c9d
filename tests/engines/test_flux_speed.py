"""What makes FLUX faster leaves its pictures what they were but for rounding, or is told apart and says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models import attention_dispatch
from pydantic import ValidationError
from torch import Tensor, _dynamo, nn

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux import tiny as tiny_flux
from shared.flux.decode import decode
from shared.flux.denoise import Away, Branch, denoise
from shared.flux.latents import noise
from shared.flux.loading import settle
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach, sites
from shared.flux.speed import Fp8, Speed, check_fp8, check_takes_loras, speed_up
from shared.flux.text import PromptEmbedding
from shared.models.memory import Plan
from shared.models.settings import flux_speed
from tests.engines.flux_models import assert_same, predict, tiny

SIGMAS = (1.0, 0.75, 0.5, 0.25, 0.0)
SKIPPING, CAREFUL = 1.0, 1e-9


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    ).eval()


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    _dynamo.reset()


@pytest.mark.parametrize(
    "speed",
    [
        Speed(),
        Speed(fused_qkv=True),
        Speed(attention="native"),
        Speed(attention="_native_math"),
        Speed(fused_qkv=True, attention="native", compiled_blocks=True),
    ],
    ids=Speed.identity,
)
def test_the_prediction_stays(speed: Speed, vae: AutoencoderKL) -> None:
    transformer = tiny()
    speed_up(transformer, vae, speed, compiler="eager")
    assert_same(predict(transformer), predict(tiny()))


def test_a_vae_with_channels_innermost_decodes_the_same(vae: AutoencoderKL) -> None:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = vae.decode(latent).sample
        speed_up(tiny(), vae, Speed(channels_last_vae=True))
        after = vae.decode(latent).sample
    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_a_kernel_is_one_models_choice_and_not_the_process_s(vae: AutoencoderKL) -> None:
    before = attention_dispatch._AttentionBackendRegistry.get_active_backend()  # noqa: SLF001
    speed_up(tiny(), vae, Speed(attention="_native_math"))
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == before  # noqa: SLF001


def test_a_kernel_that_is_not_installed_is_named(vae: AutoencoderKL) -> None:
    with pytest.raises(Permanent, match="flash_attn_interface"):
        speed_up(tiny(), vae, Speed(attention="_flash_3"))


def test_a_kernel_that_is_too_old_is_named_before_anything_is_changed(
    vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next step would be told that the transformer was changed already, and not why."""
    (tmp_path / "flash_attn.py").write_text("__version__ = '1.0'\n")
    monkeypatch.syspath_prepend(tmp_path)
    transformer = tiny()
    for _ in range(2):
        with pytest.raises(Permanent, match=r"flash.*too old"):
            speed_up(transformer, vae, Speed(attention="flash", fused_qkv=True))
    speed_up(transformer, vae, Speed(fused_qkv=True))


@pytest.mark.parametrize("kernel", ["sage", "flash_hub", "_flash_3_hub"])
def test_inexact_kernels_and_those_from_a_hub_are_not_offered(kernel: str) -> None:
    """Sage rounds to 8 bits; the hub's are code that is fetched and run."""
    with pytest.raises(ValidationError):
        Speed.model_validate({"attention": kernel})


def test_tiles_begin_where_the_setting_says() -> None:
    """An autoencoder that was told nothing paints so small a picture as a whole; in tiles it is another."""
    whole, tiled = tiny_flux.vae(), tiny_flux.vae()
    speed_up(tiny_flux.transformer(), tiled, Speed.model_construct(vae_tiled_from_px=64 * 64))
    latent = noise(96, 64, 5)
    assert np.array_equal(decode(tiled, latent), decode(whole, latent, tiled_from=64 * 64))
    assert not np.array_equal(decode(tiled, latent), decode(whole, latent))
    small = noise(64, 64, 5)
    assert np.array_equal(decode(tiled, small), decode(whole, small))


def test_fused_projections_take_no_more_memory(vae: AutoencoderKL) -> None:
    plain, fused = tiny(), tiny()
    speed_up(fused, vae, Speed(fused_qkv=True))
    count = sum(weight.numel() for weight in plain.parameters())
    assert sum(weight.numel() for weight in fused.parameters()) == count
    assert not any(weight.requires_grad for weight in fused.parameters())


# The first block's cache


def words(seed: int) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, tiny_flux.WIDTH, generator=generator)
    return PromptEmbedding(pooled, torch.randn(1, 12, tiny_flux.WIDTH, generator=generator))


def sampled(transformer: Any, away: Away | None = None) -> Tensor:
    return denoise(transformer, noise(64, 48, 7), SIGMAS, Branch(words(1)), 3.5, away)


def counted(block: Any) -> list[int]:
    """Grows by one each time that a block's attention is computed."""
    calls: list[int] = []
    block.attn.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(("threshold", "computed"), [(CAREFUL, 4), (SKIPPING, 1)])
def test_the_cache_skips_all_blocks_but_the_first(threshold: float, computed: int, vae: AutoencoderKL) -> None:
    """Of four steps; where none changes little enough the picture stays bit by bit."""
    transformer = tiny_flux.transformer()
    plain = sampled(transformer)
    first, *others = (
        counted(block) for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    )
    speed_up(transformer, vae, Speed(first_block_cache=threshold))
    found = sampled(transformer)
    assert len(first) == 4
    assert {len(calls) for calls in others} == {computed}
    assert torch.equal(found, plain) == (computed == 4)


def test_each_branch_of_guidance_repeats_its_own_steps(vae: AutoencoderKL) -> None:
    """The negative branch begins at the second step: it is computed then, and what it gives is what it gives alone."""
    transformer = tiny_flux.transformer()
    speed_up(transformer, vae, Speed(first_block_cache=SKIPPING))
    calls = counted(transformer.single_transformer_blocks[0])
    negative = Branch(words(2))
    seen: list[Tensor] = []
    transformer.register_forward_hook(lambda *given: seen.append(given[-1][0]))
    sampled(transformer, Away(negative, 2.0, start_step=1))
    assert len(calls) == 2
    assert len(seen) == 7
    alone = tiny_flux.transformer()
    speed_up(alone, vae, Speed(first_block_cache=SKIPPING))
    assert torch.equal(sampled(transformer), sampled(alone)), "nothing of the negative branch is left"


def test_a_cache_under_pulid_is_refused_and_one_over_it_is_not(vae: AutoencoderKL) -> None:
    """Whoever is seen is seen in what is repeated, too."""
    under, over, plain = (tiny_flux.transformer() for _ in range(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attentions = [PerceiverAttentionCA(tiny_flux.WIDTH, 24, 8, 2).eval() for _ in sites(plain)]
        call = IdentityCall([Subject(tokens=torch.randn(1, 5, 24))])
    speed_up(under, vae, Speed(first_block_cache=SKIPPING))
    with pytest.raises(InvalidInput, match="a cache is enabled"):
        attach(under, attentions)
    for model in (over, plain):
        attach(model, attentions)
    speed_up(over, vae, Speed(first_block_cache=SKIPPING))
    calls = counted(over.single_transformer_blocks[0])
    x = noise(64, 48, 7)
    found = denoise(over, x, SIGMAS, Branch(words(1), call.around), 3.5)
    assert len(calls) == 1
    assert not torch.equal(found, sampled(over))
    first = [denoise(model, x, SIGMAS[:2], Branch(words(1), call.around), 3.5) for model in (over, plain)]
    assert torch.equal(*first)


def test_cached_and_compiled_it_is_as_cached(vae: AutoencoderKL) -> None:
    cached, both = tiny_flux.transformer(double=1, single=1), tiny_flux.transformer(double=1, single=1)
    speed_up(cached, vae, Speed(first_block_cache=SKIPPING))
    speed_up(both, vae, Speed(first_block_cache=SKIPPING, compiled_blocks=True), compiler="eager")
    torch.testing.assert_close(sampled(both), sampled(cached), rtol=0, atol=1e-5)


# Eight bits


def test_fp8_weights_take_a_quarter_of_fp32_and_move_the_prediction_little(vae: AutoencoderKL) -> None:
    """By the rounding of e4m3 (a 16th at most in each weight); no weight is left wide within the blocks."""
    pytest.importorskip("torchao")
    plain, narrow = tiny(), tiny()
    speed_up(narrow, vae, Speed(fused_qkv=True, fp8="weights"))
    wide, rounded = predict(plain), predict(narrow)
    assert 0 < (rounded - wide).norm() / wide.norm() < 0.1
    linears: list[Any] = [module for module in narrow.transformer_blocks.modules() if isinstance(module, nn.Linear)]
    assert linears
    assert {module.weight.qdata.dtype for module in linears} == {torch.float8_e4m3fn}
    assert narrow.x_embedder.weight.dtype == torch.float32
    with pytest.raises(Permanent, match=r"flux\.fused_qkv"):
        check_takes_loras(narrow)


def test_fp8_weights_are_rounded_row_by_row(vae: AutoencoderKL) -> None:
    """A row of small weights keeps its 4 digits of 2 beside one of large ones."""
    pytest.importorskip("torchao")
    transformer = tiny()
    layer = transformer.transformer_blocks[0].ff.net[2]
    with torch.no_grad():
        layer.weight[0] *= 1e-4
    before = layer.weight.detach().clone()
    speed_up(transformer, vae, Speed(fp8="weights"))
    assert ((layer.weight.dequantize() - before).abs() <= before.abs().amax(1, keepdim=True) / 16).all()
    with pytest.raises(Permanent, match=r"flux\.fp8"):
        check_takes_loras(transformer)


def test_fp8_weights_compiled_are_as_they_are(vae: AutoencoderKL) -> None:
    pytest.importorskip("torchao")
    narrow, both = tiny(num_single_layers=1), tiny(num_single_layers=1)
    speed_up(narrow, vae, Speed(fp8="weights"))
    speed_up(both, vae, Speed(fp8="weights", compiled_blocks=True), compiler="eager")
    assert_same(predict(both), predict(narrow))


def test_multiplied_in_fp8_the_prediction_moves_little(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token and row by row; on a CPU, where torch can and torchao's check is for GPUs. Modulations stay."""
    pytest.importorskip("torchao")
    monkeypatch.setattr("shared.flux.speed.check_fp8", lambda *_, **__: None)
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda _: None)
    transformer, plain = tiny(num_single_layers=1).bfloat16(), tiny(num_single_layers=1).bfloat16()
    both = Speed(fp8="weights_and_activations", fused_qkv=True, compiled_blocks=True)
    speed_up(transformer, vae, both, compiler="eager")
    wide, rounded = predict(plain).float(), predict(transformer).float()
    assert 0 < (rounded - wide).norm() / wide.norm() < 0.05
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    narrow = {name for name, module in linears.items() if hasattr(module.weight, "qdata")}
    assert narrow == {name for name in linears if "transformer_blocks." in name and ".norm" not in name}


def test_without_torchao_fp8_is_refused(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.flux.speed.find_spec", lambda _: None)
    with pytest.raises(Permanent, match="needs torchao"):
        speed_up(tiny(), vae, Speed(fp8="weights"))


def test_multiplying_in_fp8_starts_from_bf16_on_a_gpu(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.flux.speed.find_spec", lambda _: object())
    both = Speed(fp8="weights_and_activations")
    with pytest.raises(Permanent, match=r"starts from weights in bf16, and these are torch\.float32"):
        speed_up(tiny(), vae, both)
    with pytest.raises(Permanent, match=r"capability 8\.9 or later, and this one is a cpu\. Set flux\.fp8"):
        speed_up(tiny().bfloat16(), vae, both)


@pytest.mark.parametrize(
    ("kind", "capability", "compiled", "refused"),
    [
        ("weights_and_activations", (9, 0), True, ""),
        ("weights_and_activations", (8, 9), False, ""),
        ("weights_and_activations", (8, 6), False, "this one has 8.6"),
        ("weights", (8, 0), False, ""),
        ("weights", (8, 0), True, "Compiling fp8 weights needs"),
        ("weights", None, True, ""),
    ],
)
def test_fp8_asks_for_a_gpu_that_can(
    kind: Fp8, capability: tuple[int, int] | None, compiled: bool, refused: str
) -> None:
    def check() -> None:
        check_fp8(kind, "cpu" if capability is None else "cuda", capability, compiled=compiled)

    if refused:
        with pytest.raises(Permanent, match=refused):
            check()
    else:
        check()


# What does not go together


@pytest.mark.parametrize(
    ("speed", "found"),
    [
        (Speed(fused_qkv=True), "projections are fused"),
        (Speed(first_block_cache=0.1), "cache is enabled"),
        (Speed(compiled_blocks=True), "blocks are compiled"),
    ],
    ids=["fused", "cached", "compiled"],
)
def test_a_model_is_sped_up_once(speed: Speed, found: str, vae: AutoencoderKL) -> None:
    transformer = tiny()
    speed_up(transformer, vae, speed, compiler="eager")
    with pytest.raises(InvalidInput, match=found):
        speed_up(transformer, vae, speed, compiler="eager")


@pytest.mark.parametrize("speed", [Speed(fused_qkv=True), Speed(fp8="weights")], ids=Speed.identity)
def test_adapters_and_weights_that_are_remade_are_refused(speed: Speed, vae: AutoencoderKL) -> None:
    transformer = tiny()
    transformer.peft_config = {"style": None}
    with pytest.raises(Permanent, match="LoRA adapters"):
        speed_up(transformer, vae, speed)
    assert predict(transformer).equal(predict(tiny())), "it was left as it was"


def test_a_plain_model_takes_loras(vae: AutoencoderKL) -> None:
    transformer = tiny()
    speed_up(transformer, vae, Speed(attention="native", first_block_cache=0.1))
    check_takes_loras(transformer)


@pytest.mark.parametrize(
    "speed", [Speed(fused_qkv=True), Speed(fp8="weights"), Speed(first_block_cache=0.1)], ids=Speed.identity
)
def test_brought_block_by_block_a_model_is_not_remade(speed: Speed, vae: AutoencoderKL) -> None:
    transformer = tiny()
    settle(transformer, Plan.GROUP_OFFLOAD, "cpu")
    with pytest.raises(Permanent, match="brought block by block"):
        speed_up(transformer, vae, speed)


def test_brought_block_by_block_it_may_be_compiled(vae: AutoencoderKL) -> None:
    transformer, plain = tiny(num_single_layers=1), tiny(num_single_layers=1)
    settle(transformer, Plan.GROUP_OFFLOAD, "cpu")
    speed_up(transformer, vae, Speed(attention="native", compiled_blocks=True), compiler="eager")
    assert_same(predict(transformer), predict(plain))


# Settings


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COMPILED_BLOCKS": "true", "FP8": "weights", "FIRST_BLOCK_CACHE": "0.12"}.items():
        monkeypatch.setenv(f"DOCTORGEN_FLUX__{name}", value)
    assert flux_speed() == Speed(compiled_blocks=True, fp8="weights", first_block_cache=0.12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FP8", "yes"),
        ("FIRST_BLOCK_CACHE", "0"),
        ("VAE_TILED_FROM_PX", "10"),
        ("ATTENTION", "sage"),
        ("FUSED", "true"),
    ],
)
def test_a_wrong_one_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DOCTORGEN_FLUX__{name}", value)
    with pytest.raises(InvalidInput, match=name.lower()):
        flux_speed()


@pytest.mark.parametrize("other", [{"fused_qkv": True}, {"fp8": "weights"}, {"first_block_cache": 0.1}])
def test_what_needs_the_whole_model_is_refused_beside_group_offload(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(other))} needs the whole transformer on the device"):
        Speed.model_validate({"group_offload": True} | other)


def test_only_what_changes_bytes_is_part_of_the_address() -> None:
    """With nothing set the address is what it was before there were settings."""
    assert Speed(group_offload=True).identity() == ""
    assert Speed().digests("flux") == {}
    one, other = Speed(fp8="weights", fused_qkv=True), Speed(fused_qkv=True)
    assert one.identity() == "fp8=weights fused_qkv=True"
    assert one.digests("flux").keys() == {"flux/settings"}
    assert one.digests("flux") != other.digests("flux")
