"""A picture whose style another takes: diffusers' numbers, nothing left on the model, many calls at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
from diffusers.models.attention_dispatch import AttentionBackendName
from PIL import Image as Pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, _dynamo
from torch._dynamo.utils import counters
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux import tiny
from shared.flux.denoise import Around, Away, Branch, Extra, alone, denoise
from shared.flux.ip_adapter import (
    IpAdapter,
    Sizes,
    Style,
    StyleProcessor,
    StyleReader,
    ip_adapter_resident,
    load_adapter,
    load_encoder,
    prepared,
    read_style,
    show_styles,
    styled,
)
from shared.flux.latents import noise, pack, unpack
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach, sites
from shared.flux.residents import bytes_of
from shared.flux.schedules import sigmas as schedule
from shared.flux.speed import Speed, speed_up
from shared.flux.text import PromptEmbedding
from shared.vision.codec import Image

SIDE, EMBEDDING, TOKENS = 28, 24, 4
WIDTH, HEIGHT = 64, 48
BETA = tuple(float(sigma) for sigma in schedule("beta", 3))
SIZES = Sizes(blocks=2, inner=tiny.WIDTH, width=tiny.WIDTH, embedding=EMBEDDING, tokens=TOKENS)
FILE = "ip_adapter.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XLabs' file and the encoder's folder, tiny and random, with keys and values large enough to be seen."""
    made = tmp_path_factory.mktemp("ip")
    torch.manual_seed(3)
    CLIPVisionModelWithProjection(_vision()).save_pretrained(made / "encoder", safe_serialization=True)
    save_file(IpAdapter(SIZES).state_dict(), made / FILE)
    return made


@pytest.fixture(scope="module")
def reader(folder: Path) -> StyleReader:
    return StyleReader(load_encoder(folder / "encoder", torch.float32), load_adapter(folder / FILE, torch.float32))


@pytest.fixture(scope="module")
def style(reader: StyleReader) -> Style:
    return read_style(reader, _picture(1))


# diffusers' numbers


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_it_paints_as_diffusers_pipeline_does(folder: Path, reader: StyleReader, cfg: float) -> None:
    """The same file, encoder, picture and noise; with true guidance the negative branch sees a black picture."""
    pipe = tiny.pipeline()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(feature_extractor=CLIPImageProcessorPil(size=SIDE, crop_size=SIDE))
    pipe.load_ip_adapter(
        str(folder), weight_name=FILE, image_encoder_pretrained_model_name_or_path=str(folder / "encoder"),
        image_encoder_dtype=torch.float32,
    )  # fmt: skip
    pipe.set_ip_adapter_scale(0.6)
    positive, negative = _words(1), _words(2)
    theirs = pipe(
        prompt_embeds=positive.sequence, pooled_prompt_embeds=positive.pooled,
        negative_prompt_embeds=negative.sequence, negative_pooled_prompt_embeds=negative.pooled, true_cfg_scale=cfg,
        sigmas=list(BETA[:-1]), num_inference_steps=len(BETA) - 1, guidance_scale=3.5, width=WIDTH, height=HEIGHT,
        latents=pack(noise(WIDTH, HEIGHT, 7)), output_type="latent",
        ip_adapter_image=Pictures.fromarray(_picture(1)),
    ).images  # fmt: skip
    transformer = tiny.transformer()
    pictured, black = (styled(transformer, read_style(reader, one), 0.6) for one in (_picture(1), None))

    def paint(pictured: tuple[Extra, ...], black: tuple[Extra, ...]) -> Tensor:
        away = Away(Branch(negative, extras=black), cfg)
        return denoise(transformer, noise(WIDTH, HEIGHT, 7), BETA, Branch(positive, extras=pictured), 3.5, away)

    ours = paint((pictured,), (black,))
    assert (ours - unpack(theirs, HEIGHT // 8, WIDTH // 8)).abs().max() < 1e-5
    assert (ours - paint((), ())).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(28, 28), (90, 40), (31, 77), (20, 25)])
def test_pictures_are_prepared_as_for_clip(size: tuple[int, int]) -> None:
    """Square, wide, high, smaller than the encoder's: the same as transformers' image processor."""
    picture = _picture(5, *size)
    theirs = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)(picture, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(prepared(picture, SIDE), theirs, atol=1e-5, rtol=0)


def test_it_is_found_in_a_whole_clips_folder(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As openai/clip-vit-large-patch14 is published: one file for text and vision. The vision part is the same."""
    apart = load_encoder(folder / "encoder", torch.float32)
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=99,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    whole = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=_vision().to_dict(), projection_dim=EMBEDDING)
    )
    whole.load_state_dict(apart.state_dict(), strict=False)
    whole.save_pretrained(tmp_path, safe_serialization=True)
    older = load_file(tmp_path / "model.safetensors") | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(older, tmp_path / "model.safetensors")
    found = load_encoder(tmp_path, torch.float32)
    assert found.state_dict().keys() == apart.state_dict().keys()
    assert all(torch.equal(tensor, apart.state_dict()[name]) for name, tensor in found.state_dict().items())
    size = ip_adapter_resident(folder / FILE, folder / "encoder", torch.float32, "cpu").bytes
    assert ip_adapter_resident(folder / FILE, tmp_path, torch.float32, "cpu").bytes == size
    assert caplog.records == []


# How strongly


def test_more_weight_moves_the_picture_further_and_none_not_at_all(style: Style) -> None:
    transformer = tiny.transformer()
    plain = _paint(transformer)
    assert torch.equal(_paint(transformer, style, 0.0), plain)
    moved = [(_paint(transformer, style, weight) - plain).norm().item() for weight in (0.2, 0.6, 1.0)]
    assert moved[0] > 0
    assert moved == sorted(set(moved))


def test_another_picture_is_another_style(reader: StyleReader, style: Style) -> None:
    transformer = tiny.transformer()
    other = read_style(reader, _picture(2))
    assert (_paint(transformer, style) - _paint(transformer, other)).abs().max() > 1e-4


def test_a_model_in_bf16_stays_in_bf16(folder: Path) -> None:
    bf16 = torch.bfloat16
    reader = StyleReader(load_encoder(folder / "encoder", torch.float32), load_adapter(folder / FILE, bf16))
    transformer = tiny.transformer().to(bf16)
    made, plain = _paint(transformer, read_style(reader, _picture(1)), 0.6), _paint(transformer)
    exact = _paint(tiny.transformer(), read_style(_fp32(folder), _picture(1)), 0.6)
    assert read_style(reader, _picture(1)).keys.dtype == bf16
    assert not torch.equal(made, plain)
    assert (made - exact).norm() < 0.05 * exact.norm()


# Nothing is left


def test_a_call_without_a_picture_is_what_it_was_before_the_model_saw_one(style: Style) -> None:
    """Bit for bit, and so are the model's state, its hooks and its settings."""
    transformer = tiny.transformer()
    for processor in transformer.attn_processors.values():
        processor._attention_backend = AttentionBackendName._NATIVE_MATH  # noqa: SLF001
    before, state = _paint(transformer), {name: one.clone() for name, one in transformer.state_dict().items()}
    _paint(transformer, style)
    assert torch.equal(_paint(transformer), before)
    after = transformer.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)
    kernels = {one._attention_backend for one in transformer.attn_processors.values()}  # noqa: SLF001
    assert kernels == {AttentionBackendName._NATIVE_MATH}  # noqa: SLF001
    assert not [module for module in transformer.modules() if module._forward_hooks or module._forward_pre_hooks]  # noqa: SLF001


def test_a_second_picture_changes_no_processor(style: Style) -> None:
    transformer = tiny.transformer()
    show_styles(transformer)
    before = transformer.attn_processors
    styled(transformer, style, 0.5)
    assert transformer.attn_processors == before
    assert [type(one) is StyleProcessor for one in before.values()] == [True] * 2 + [False] * 5


def test_blocks_that_know_no_picture_pass_it_over_in_silence(style: Style, caplog: pytest.LogCaptureFixture) -> None:
    transformer = tiny.transformer()
    _paint(transformer, style)
    assert caplog.records == []


# Together with others


def test_fifty_calls_at_once_do_not_mix(folder: Path) -> None:
    """Fifty threads on one model, each with its own picture and weight, each tenth without: as each is alone."""
    transformer, reader = tiny.transformer(double=1, single=1), _fp32(folder)
    styles = [_of_depth(read_style(reader, _picture(seed)), 1) for seed in range(50)]
    shown = [(None if seed % 10 == 9 else style, 0.4 + seed / 50) for seed, style in enumerate(styles)]
    wanted = [_paint(transformer, style, weight, steps=1) for style, weight in shown]
    ready = Barrier(50)

    @contextmanager
    def together(_step: int, _sigma: float) -> Iterator[None]:
        ready.wait(timeout=60)
        yield

    def paint(one: tuple[Style | None, float]) -> Tensor:
        return _paint(transformer, *one, steps=1, around=together)

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(paint, shown))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert min((a - b).abs().max().item() for a, b in pairwise(wanted)) > 1e-4


def test_an_identity_and_a_picture_act_together(style: Style) -> None:
    """With PuLID attached before or after: both are seen, the same both ways, and either alone is as it is alone."""
    found = []
    for pulid_first in (True, False):
        transformer = tiny.transformer()
        styled_alone, plain = _paint(tiny.transformer(), style), _paint(tiny.transformer())
        if not pulid_first:
            show_styles(transformer)
        attach(transformer, _attentions(transformer))
        call = _somebody()
        assert torch.equal(_paint(transformer), plain)
        assert torch.equal(_paint(transformer, style), styled_alone)
        with_identity = _paint(transformer, around=call.around)
        both = _paint(transformer, style, around=call.around)
        distances = [(both - other).abs().max().item() for other in (plain, styled_alone, with_identity)]
        assert min(distances) > 1e-3
        found.append(both)
    assert torch.equal(found[0], found[1])


def test_fused_projections_change_nothing(style: Style) -> None:
    """As the setting fuses them: what was fused is let go of, also the query's own projection."""
    transformer = tiny.transformer()
    wanted = _paint(transformer, style)
    speed_up(transformer, tiny.vae(), Speed(fused_qkv=True))
    torch.testing.assert_close(_paint(transformer, style), wanted, atol=1e-5, rtol=0)


def test_offloaded_layer_by_layer_it_changes_nothing(style: Style) -> None:
    """Where the transformer does not fit: the query's layer comes twice."""
    transformer = tiny.transformer()
    wanted = _paint(transformer, style)
    transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(_paint(transformer, style), wanted)


def test_a_cache_keeps_pictures_apart(style: Style, reader: StyleReader) -> None:
    """A cache that never skips changes nothing; one that always does gives each run its own picture, and none none."""
    careful, eager = tiny.transformer(), tiny.transformer()
    careful.enable_cache(FirstBlockCacheConfig(threshold=-1.0))
    eager.enable_cache(FirstBlockCacheConfig(threshold=100.0))
    wanted = _paint(tiny.transformer(), style)
    assert torch.equal(_paint(careful, style), wanted)
    plain = _paint(eager)
    first = _paint(eager, style)
    second = _paint(eager, read_style(reader, _picture(2)))
    assert (first - second).abs().max() > 1e-4
    assert (first - plain).abs().max() > 1e-4
    assert torch.equal(_paint(eager, style), first)
    assert torch.equal(_paint(eager), plain)


def test_compiled_blocks_are_compiled_once_for_all_depths_and_pictures(style: Style, reader: StyleReader) -> None:
    """However many blocks, pictures and weights: the first picture has a block of either kind compiled once more."""
    _dynamo.reset()
    transformer = tiny.transformer(double=3, single=2)
    show_styles(transformer)
    styles = [_of_depth(read_style(reader, _picture(seed)), 3) for seed in (1, 2)]
    wanted = [_paint(transformer), _paint(transformer, styles[0]), _paint(transformer, styles[1], 0.3)]
    counters.clear()
    transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    found = [_paint(transformer)]
    without = counters["stats"]["unique_graphs"]
    found.append(_paint(transformer, styles[0]))
    assert counters["stats"]["unique_graphs"] == without + 2
    with _dynamo.config.patch(error_on_recompile=True):
        found.append(_paint(transformer, styles[1], 0.3))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# Loading


def test_the_published_sizes_are_read_off_the_file(tmp_path: Path) -> None:
    """XLabs' two adapters: 491 million parameters with 4 tokens, 529 with 16."""
    for tokens, parameters in ((4, 490_874_880), (16, 528_672_768)):
        with torch.device("meta"):
            adapter = IpAdapter(Sizes(19, 3072, 4096, 768, tokens))
        assert sum(one.numel() for one in adapter.parameters()) == parameters
        assert "double_blocks.18.processor.ip_adapter_double_stream_v_proj.bias" in adapter.state_dict()
    with torch.device("meta"):
        deep = IpAdapter(SIZES._replace(tokens=16))
    save_file({name: torch.zeros(one.shape) for name, one in deep.state_dict().items()}, tmp_path / FILE)
    assert load_adapter(tmp_path / FILE).sizes == SIZES._replace(tokens=16)


def test_a_file_that_is_not_exactly_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / FILE)
    key = "double_blocks.{}.processor.ip_adapter_double_stream_k_proj.weight"
    broken = {
        "missing: double_blocks.1": {name: one for name, one in whole.items() if name != key.format(1)},
        "unexpected: single_blocks.0": {**whole, "single_blocks.0.weight": torch.zeros(1)},
        "misshapen": {**whole, key.format(1): torch.zeros(3, 3)},
        "not the weights of an IP-Adapter": {"proj.weight": torch.zeros(3, 3)},
    }
    for message, content in broken.items():
        save_file(content, tmp_path / FILE)
        with pytest.raises(Permanent, match=message):
            load_adapter(tmp_path / FILE)


def test_an_encoder_that_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    """A tensor that is missing would be random; and a folder without one is no encoder."""
    with pytest.raises(Permanent, match=r"config\.json is missing"):
        load_encoder(tmp_path)
    config = (folder / "encoder" / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(b"{")
    with pytest.raises(Permanent, match=r"config\.json cannot be understood"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(Permanent, match="cannot be read"):
        load_encoder(tmp_path)
    whole = load_file(folder / "encoder" / "model.safetensors")
    projection = "visual_projection.weight"
    for message, content in (
        (f"1 missing: {projection}", {name: one for name, one in whole.items() if name != projection}),
        (f"1 misshapen: {projection}", {**whole, projection: torch.zeros(3, 3)}),
    ):
        save_file(content, tmp_path / "model.safetensors")
        with pytest.raises(Permanent, match=message):
            load_encoder(tmp_path)


def test_what_does_not_fit_is_said(folder: Path, style: Style) -> None:
    with pytest.raises(InvalidInput, match="is for 2 double blocks 32 wide, and the model has 3, 32 wide"):
        styled(tiny.transformer(double=3), style, 1.0)
    with pytest.raises(InvalidInput, match="is nan"):
        styled(tiny.transformer(), style, float("nan"))
    strange = tiny.transformer()
    strange.transformer_blocks[0].attn.set_processor(lambda *_: None)
    with pytest.raises(InvalidInput, match="attention processors function"):
        styled(strange, style, 1.0)
    with pytest.raises(Permanent, match="gives 24 numbers and the IP-Adapter reads 9"):
        StyleReader(load_encoder(folder / "encoder"), IpAdapter(SIZES._replace(embedding=9)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_residency_is_told_what_it_takes(folder: Path, dtype: torch.dtype) -> None:
    """To the byte; and what it loads reads pictures."""
    resident = ip_adapter_resident(folder / FILE, folder / "encoder", dtype, "cpu")
    reader = resident.load()
    assert resident.bytes == bytes_of(reader)
    assert resident.name == "IP-Adapter ip_adapter"
    resident.to_device()
    assert reader.adapter.ip_adapter_proj_model.proj.weight.dtype == dtype
    assert reader.encoder.dtype == (torch.float32 if dtype == torch.float32 else torch.float16)
    resident.drop()


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, projection_dim=EMBEDDING, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIDE, patch_size=14,
    )  # fmt: skip


@cache
def _fp32(folder: Path) -> StyleReader:
    return StyleReader(load_encoder(folder / "encoder", torch.float32), load_adapter(folder / FILE, torch.float32))


def _picture(seed: int, width: int = 40, height: int = 32) -> Image:
    """A picture of a few large patches, so that resizing leaves something of it."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Pictures.fromarray(patches).resize((width, height), Pictures.Resampling.NEAREST))


def _words(seed: int, dtype: torch.dtype = torch.float32) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, tiny.WIDTH, generator=generator)
    return PromptEmbedding(pooled, torch.randn(1, 12, tiny.WIDTH, generator=generator)).to("cpu", dtype)


def _paint(
    transformer: Any, style: Style | None = None, weight: float = 1.0, *, steps: int = 2, around: Around = alone
) -> Tensor:
    extras = () if style is None else (styled(transformer, style, weight),)
    branch = Branch(_words(1, transformer.dtype), around, extras)
    return denoise(transformer, noise(WIDTH, HEIGHT, 7), BETA[-steps - 1 :], branch, 3.5)


def _attentions(transformer: Any) -> list[PerceiverAttentionCA]:
    torch.manual_seed(1)
    return [PerceiverAttentionCA(tiny.WIDTH, 24, heads=2, head_dim=8).eval() for _ in sites(transformer)]


def _somebody() -> IdentityCall:
    return IdentityCall([Subject(tokens=torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(5)))])


def _of_depth(style: Style, blocks: int) -> Style:
    """The same for a model of that many double-stream blocks."""
    return Style(torch.cat([style.keys] * 2)[:blocks], torch.cat([style.values] * 2)[:blocks])
