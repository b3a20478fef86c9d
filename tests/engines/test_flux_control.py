"""ControlNets in the sampling loop: as diffusers' own pipeline, added up, beside PuLID, caches and compilers."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetPipeline,
    FluxMultiControlNetModel,
    MagCacheConfig,
)
from diffusers.hooks import SeaCacheConfig
from torch import Tensor, _dynamo

from shared.contracts.errors import InvalidInput
from shared.flux import tiny
from shared.flux.control import Applied, Controls, condition
from shared.flux.denoise import Away, Branch, Call, Extra, denoise, predict, start
from shared.flux.latents import noise, pack, unpack
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach, sites
from shared.flux.schedules import sigmas as schedule
from shared.flux.text import PromptEmbedding
from shared.vision.codec import Image
from tests.engines.flux_controlnets import controlnet, union, xlabs

WIDTH, HEIGHT = 64, 48
SIGMAS = tuple(float(sigma) for sigma in schedule("beta", 4))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def transformer() -> Any:
    return tiny.transformer(double=4)


@cache
def vae() -> Any:
    """Its distribution is so narrow that diffusers' pipeline, which draws from it, draws the mode."""
    made = tiny.vae()
    made.encoder.conv_out.weight.data[16:] = 0.0
    made.encoder.conv_out.bias.data[16:] = -100.0
    return made


def drawing(seed: int = 0) -> Image:
    """Rectangles, white on black."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for left, top in np.random.Generator(np.random.PCG64(seed)).integers(0, 40, (4, 2)):
        picture[top : top + 6, left : left + 16] = 255
    return picture


def words(seed: int) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, tiny.WIDTH, generator=generator)
    return PromptEmbedding(pooled, torch.randn(1, 12, tiny.WIDTH, generator=generator))


def applied(net: Any, seed: int = 0, **more: Any) -> Applied:
    return Applied(net, condition(net, vae(), drawing(seed)), **more)


def sample(*several: Applied, model: Any = None, cfg: float = 1.0, sigmas: Sequence[float] = SIGMAS) -> Tensor:
    """A run; under guidance the branch led away from gets the same residuals."""
    model = model or transformer()
    controls = Controls(model, several)
    away = Away(Branch(words(2), extras=(controls.again,)), cfg)
    return denoise(model, noise(WIDTH, HEIGHT, 7), sigmas, Branch(words(1), extras=(controls,)), 3.5, away)


def plain(model: Any = None) -> Tensor:
    return denoise(model or transformer(), noise(WIDTH, HEIGHT, 7), SIGMAS, Branch(words(1)), 3.5)


def theirs(net: Any, pictures: Sequence[Image], cfg: float = 1.0, **more: Any) -> Tensor:
    """The same run by diffusers' pipeline, without its text encoders."""
    pipe = FluxControlNetPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae(), text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer(), controlnet=net,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    images = [torch.from_numpy(one).permute(2, 0, 1)[None] / 127.5 - 1 for one in pictures]
    positive, negative = words(1), words(2)
    tokens = pipe(
        control_image=images if isinstance(net, FluxMultiControlNetModel) else images[0],
        prompt_embeds=positive.sequence, pooled_prompt_embeds=positive.pooled,
        negative_prompt_embeds=negative.sequence, negative_pooled_prompt_embeds=negative.pooled, true_cfg_scale=cfg,
        sigmas=list(SIGMAS[:-1]), num_inference_steps=len(SIGMAS) - 1, guidance_scale=3.5, width=WIDTH, height=HEIGHT,
        latents=pack(noise(WIDTH, HEIGHT, 7)), output_type="latent", **more,
    ).images  # fmt: skip
    return unpack(tokens, HEIGHT // 8, WIDTH // 8)


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# As diffusers


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_it_samples_as_diffusers_pipeline_does(cfg: float) -> None:
    """Strength and window included, and under true guidance both branches get what the wanted words gave."""
    net = controlnet()
    wanted = theirs(
        net, [drawing()], cfg, controlnet_conditioning_scale=0.7, control_guidance_start=0.2, control_guidance_end=0.8
    )
    ours = sample(applied(net, strength=0.7, start=0.2, end=0.8), cfg=cfg)
    assert far(ours, wanted) < 1e-5
    assert far(ours, sample(cfg=cfg)) > 1e-2


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: controlnet(double=3, single=0), None),
        (lambda: controlnet(double=0, single=2, guidance_embeds=False), None),
        (union, 2),
        (xlabs, None),
    ],
    ids=["union-pro-2.0", "single blocks, no guidance", "union with modes", "xlabs"],
)
def test_every_architecture_speaks_as_it_does_in_diffusers(make: Any, mode: int | None) -> None:
    net = make()
    ours = sample(applied(net, mode=mode))
    assert far(ours, theirs(net, [drawing()], control_mode=mode)) < 1e-5
    assert far(ours, plain()) > 1e-2


@pytest.mark.parametrize("make", [union, xlabs])
def test_a_batch_follows_its_drawing_as_its_items_do(make: Any) -> None:
    """One drawing for all, within 1e-5 in fp32: a model with modes, and one that reads pixels."""
    net = make()
    drawn = torch.cat([noise(64, 48, seed) for seed in (7, 8)])

    def run(x: Tensor) -> Tensor:
        one = Applied(net, condition(net, vae(), drawing()), mode=1 if make is union else None)
        branch = Branch(words(1), extras=(Controls(transformer(), [one]),))
        return denoise(transformer(), x, SIGMAS, branch, 3.5)

    assert (run(drawn) - torch.cat([run(one) for one in drawn.split(1)])).abs().max() < 1e-5


def test_another_mode_of_a_union_is_another_picture() -> None:
    net = union()
    assert far(sample(applied(net, mode=0)), sample(applied(net, mode=4))) > 1e-4


def test_several_add_up_as_diffusers_adds_them() -> None:
    nets = [controlnet(0), controlnet(1)]
    wanted = theirs(
        FluxMultiControlNetModel(nets), [drawing(0), drawing(1)], controlnet_conditioning_scale=[0.7, 0.4],
        control_guidance_start=[0.0, 0.5], control_guidance_end=[0.5, 1.0],
    )  # fmt: skip
    ours = sample(applied(nets[0], 0, strength=0.7, end=0.5), applied(nets[1], 1, strength=0.4, start=0.5))
    assert far(ours, wanted) < 1e-5


def test_one_model_may_follow_several_drawings() -> None:
    """With lists as windows: by a number for all, diffusers' pipeline leaves out all drawings but the first."""
    net = union()
    wanted = theirs(
        FluxMultiControlNetModel([net]), [drawing(0), drawing(1)], control_mode=[0, 4],
        controlnet_conditioning_scale=[0.7, 0.4], control_guidance_start=[0.0, 0.0], control_guidance_end=[1.0, 1.0],
    )  # fmt: skip
    ours = sample(applied(net, 0, strength=0.7, mode=0), applied(net, 1, strength=0.4, mode=4))
    assert far(ours, wanted) < 1e-5


# What is added


def a_call(model: Any, step: int = 0, count: int = 4) -> Call:
    """What the transformer is about to be given at a step."""
    calls: list[Call] = []

    def keep(call: Call, /) -> Mapping[str, Any]:
        calls.append(call)
        return {}

    predict(model, noise(WIDTH, HEIGHT, 7), 0.7, Branch(words(1), extras=(keep,)), 3.5, step, "cond", count)
    return calls[0]


def test_models_of_any_depth_and_kind_add_up_block_by_block() -> None:
    """Also where diffusers' own sum would leave out what the shorter lacks, or spread both by one rule."""
    call, nets = a_call(transformer()), [controlnet(0, double=1), controlnet(1, double=3, single=0), xlabs()]
    alone = [Controls(transformer(), [applied(net)])(call) for net in nets]
    together = Controls(transformer(), [applied(net) for net in nets])(call)
    doubles = [one["controlnet_block_samples"] for one in alone]
    for block, whole in enumerate(together["controlnet_block_samples"]):
        assert torch.equal(whole, doubles[0][block] + doubles[1][block] + doubles[2][block])
    singles = zip(together["controlnet_single_block_samples"], alone[0]["controlnet_single_block_samples"], strict=True)
    assert all(torch.equal(whole, one) for whole, one in singles)
    assert [len(one) for one in doubles] == [4, 4, 4]


def test_no_strength_and_no_drawing_change_no_bit() -> None:
    assert torch.equal(sample(), plain())
    assert torch.equal(sample(applied(controlnet(), strength=0.0)), plain())


def test_outside_of_its_window_it_changes_no_bit_and_is_not_run() -> None:
    """Ended before the first step, begun after the last; and before it begins the steps are those of a plain run."""
    net = controlnet()
    assert torch.equal(sample(applied(net, end=0.2)), plain())
    assert torch.equal(sample(applied(net, start=0.9)), plain())
    steps: list[list[Tensor]] = [[], []]
    for found, extras in zip(steps, [(), (Controls(transformer(), [applied(net, start=0.5)]),)], strict=True):
        denoise(
            transformer(), noise(WIDTH, HEIGHT, 7), SIGMAS, Branch(words(1), extras=extras), 3.5,
            on_step=lambda step, found=found: found.append(step.foreseen),  # type: ignore[misc]
        )  # fmt: skip
    assert [torch.equal(one, other) for one, other in zip(*steps, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("count", [1, 4, 7, 28])
def test_windows_are_shares_of_the_steps_by_diffusers_rule(count: int) -> None:
    for begin, end in ((0.0, 1.0), (0.0, 0.8), (0.3, 0.7), (0.5, 0.5)):
        one = Applied(None, torch.zeros(0), start=begin, end=end)
        kept = [1.0 - float(i / count < begin or (i + 1) / count > end) for i in range(count)]
        assert [float(one.acts(i, count)) for i in range(count)] == kept


def test_from_a_picture_the_windows_are_shares_of_the_steps_taken() -> None:
    """Half a schedule is begun in the middle: its first step is the first of the window."""
    net, latent = controlnet(), noise(WIDTH, HEIGHT, 1) * 0.3
    sigmas = tuple(float(sigma) for sigma in schedule("simple", 2, denoise=0.5))
    controls = Controls(transformer(), [applied(net, end=0.5)])
    begun = start(noise(WIDTH, HEIGHT, 7), sigmas, latent)
    made = denoise(transformer(), begun, sigmas, Branch(words(1), extras=(controls,)), 3.5)
    first = denoise(
        transformer(), begun, sigmas[:2], Branch(words(1), extras=(Controls(transformer(), [applied(net)]),)), 3.5
    )
    assert torch.equal(made, denoise(transformer(), first, sigmas[1:], Branch(words(1)), 3.5))


def test_in_bf16_it_is_told_the_time_in_full() -> None:
    """As the transformer is, whose own forward would round it."""
    model, net = (one.to(torch.bfloat16) for one in (tiny.transformer(), controlnet()))
    told: list[Tensor] = []
    net.time_text_embed.time_proj.register_forward_pre_hook(lambda _, given: told.append(given[0]))  # then the guidance
    extras = (Controls(model, [applied(net)]),)
    denoise(
        model, noise(WIDTH, HEIGHT, 7), (0.7001, 0.0), Branch(words(1).to("cpu", torch.bfloat16), extras=extras), 3.5
    )
    assert [one.dtype for one in told] == [torch.float32, torch.float32]
    assert [one.item() for one in told] == pytest.approx([700.1, 3500.0], abs=1e-3)
    assert not net.time_text_embed._forward_pre_hooks, "nothing is left on the model"  # noqa: SLF001


def test_the_same_drawing_is_always_read_the_same() -> None:
    """No seed takes part: it is the mode of what the autoencoder finds."""
    wide = tiny.vae()
    assert torch.equal(condition(controlnet(), wide, drawing()), condition(controlnet(), wide, drawing()))
    assert condition(controlnet(), wide, drawing()).shape == (1, 12, 64)
    pixels = condition(xlabs(), wide, drawing())
    assert pixels.shape == (1, 3, HEIGHT, WIDTH)
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)


def test_a_controlnet_for_another_transformer_is_refused() -> None:
    for model in (tiny.transformer(double=1), tiny.transformer(single=1)):
        with pytest.raises(InvalidInput, match="made for this transformer"):
            Controls(model, [applied(controlnet(double=2, single=2))])
    with pytest.raises(InvalidInput, match="is 64 wide"):
        Controls(transformer(), [applied(controlnet(num_attention_heads=4))])


# Beside PuLID


def pulid_attentions(model: Any) -> list[PerceiverAttentionCA]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return [PerceiverAttentionCA(tiny.WIDTH, 24, heads=2, head_dim=8).eval() for _ in sites(model)]


def held(model: Any, weight: float, controls: Controls) -> Tensor:
    """Two steps with an identity of that weight."""
    tokens = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(3))
    who = IdentityCall([Subject(tokens=tokens, weight=weight)])
    return denoise(model, noise(WIDTH, HEIGHT, 7), SIGMAS[:3], Branch(words(1), who.around, (controls,)), 3.5)


def test_beside_an_identity_both_act_and_without_weight_it_changes_no_bit() -> None:
    control, model = applied(controlnet(), strength=0.7), tiny.transformer()
    controls, nothing = Controls(model, [control]), Controls(model, [])
    alone = sample(control, model=model, sigmas=SIGMAS[:3])
    attachment = attach(model, pulid_attentions(model))
    assert torch.equal(held(model, 0.0, controls), alone)
    both, identity_alone = held(model, 1.0, controls), held(model, 1.0, nothing)
    assert min(far(both, alone), far(both, identity_alone), far(identity_alone, alone)) > 1e-3
    attachment.detach()
    assert torch.equal(sample(control, model=model, sigmas=SIGMAS[:3]), alone)


def test_residuals_are_added_behind_what_an_identity_adds() -> None:
    """PuLID sees the first block's image without its residual; the next block gets both."""
    model = tiny.transformer()
    controls = Controls(model, [applied(controlnet())])
    attentions = pulid_attentions(model)
    attach(model, attentions)
    seen: list[list[Tensor]] = [[], [], []]
    attentions[0].register_forward_pre_hook(lambda _, given: seen[0].append(given[1]))
    attentions[0].register_forward_hook(lambda _, __, answer: seen[1].append(answer))
    model.transformer_blocks[1].norm1.register_forward_pre_hook(lambda _, given: seen[2].append(given[0]))
    held(model, 1.0, controls)
    first = controls(a_call_at_start(model))["controlnet_block_samples"][0]
    torch.testing.assert_close(seen[2][0], seen[0][0] + seen[1][0] + first)
    bare = len(seen[0])
    held(model, 1.0, Controls(model, []))
    assert torch.equal(seen[0][0], seen[0][bare])
    assert far(seen[2][0], seen[2][bare]) > 1e-3


def a_call_at_start(model: Any) -> Call:
    """The first call of a run."""
    calls: list[Call] = []

    def keep(call: Call, /) -> Mapping[str, Any]:
        calls.append(call)
        return {}

    denoise(model, noise(WIDTH, HEIGHT, 7), SIGMAS[:2], Branch(words(1), extras=(keep,)), 3.5)
    return calls[0]


# Beside caches and compilers

MAG_CACHE = MagCacheConfig(
    num_inference_steps=5, mag_ratios=[1.0] * 5, retention_ratio=0.0, threshold=9.0, max_skip_steps=9
)
CACHES = pytest.mark.parametrize(
    "config", [FirstBlockCacheConfig(threshold=9.0), MAG_CACHE], ids=["first block", "mag"]
)


def twice(model: Any, extra: Extra, prompt: int = 1, name: str = "cond") -> tuple[Tensor, Tensor]:
    """The same step twice: a cache that is enabled computes the first and skips the second."""
    x, branch = noise(WIDTH, HEIGHT, 7), Branch(words(prompt), extras=(extra,))
    return predict(model, x, 0.7, branch, 3.5, 0, name, 4), predict(model, x, 0.7, branch, 3.5, 1, name, 4)


@CACHES
@pytest.mark.parametrize("single", [0, 2])
def test_what_a_cache_repeats_is_not_added_twice(config: Any, single: int) -> None:
    """A skipped step that is the same as the computed one is the same; diffusers' own arguments make it another."""
    model, net = tiny.transformer(), controlnet(single=single)
    controls = Controls(model, [applied(net)])
    plainly = controls(a_call(model))
    model.enable_cache(config)
    runs: list[int] = []
    model.transformer_blocks[1].norm1.register_forward_pre_hook(lambda _, __: runs.append(1))
    first, second = twice(model, controls)
    assert len(runs) == 1, "the second was skipped"
    assert far(first, second) < 1e-5
    model.disable_cache()
    assert far(first, twice(model, controls)[0]) < 1e-5
    model.enable_cache(config)
    naive = twice(model, lambda _: plainly)
    assert far(*naive) > 1e-2


def test_a_skipped_step_costs_no_controlnet_where_nothing_follows_the_last_block() -> None:
    """Union-Pro 2.0 has no single-stream blocks; nor are branches mixed up when one skips and the other does not."""
    model, net = tiny.transformer(), controlnet(single=0)
    controls = Controls(model, [applied(net)])
    wanted = twice(model, controls, 2, "uncond")[0]
    model.enable_cache(FirstBlockCacheConfig(threshold=9.0))
    runs: list[int] = []
    net.x_embedder.register_forward_pre_hook(lambda _, __: runs.append(1))
    twice(model, controls)
    assert len(runs) == 1
    first = controls(a_call_at_start(model))
    assert first.keys() == {"controlnet_block_samples"}
    assert far(twice(model, controls, 2, "uncond")[0], wanted) < 1e-5


def test_a_cache_that_never_skips_changes_nothing() -> None:
    control, careful = applied(controlnet(), strength=0.7), tiny.transformer()
    wanted = sample(control, model=careful, cfg=2.5)
    careful.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(sample(control, model=careful, cfg=2.5), wanted)


def test_a_cache_that_does_not_tell_is_refused() -> None:
    model = tiny.transformer()
    model._cache_config = SeaCacheConfig()  # noqa: SLF001  # diffusers does not offer it for FLUX yet
    with pytest.raises(InvalidInput, match="SeaCache"):
        Controls(model, [applied(controlnet())])(a_call_at_start(transformer()))


def test_compiled_it_agrees_and_another_strength_or_none_compiles_nothing() -> None:
    """A transformer that sees identities, block by block with no break in a graph."""
    _dynamo.reset()
    model, net = tiny.transformer(double=1, single=1), controlnet(single=0)
    attach(model, pulid_attentions(model))
    runs = [
        (1.0, Controls(model, [applied(net)])),
        (0.5, Controls(model, [applied(net, strength=0.4)])),
        (1.0, Controls(model, [])),
    ]
    wanted = [held(model, weight, controls) for weight, controls in runs]
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    found = [held(model, *runs[0])]
    with _dynamo.config.patch(error_on_recompile=True):
        found += [held(model, *run) for run in runs[1:]]
    assert max(far(one, other) for one, other in zip(found, wanted, strict=True)) < 1e-5
