"""The sampling loop: diffusers' latents in fp32, a straight line of arithmetic, full precision, branches apart."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from shared.contracts.errors import Cancelled, InvalidInput
from shared.flux import tiny
from shared.flux.denoise import Away, Branch, Call, Extra, Step, denoise, merged, predict, start
from shared.flux.latents import noise, pack, unpack
from shared.flux.schedules import sigmas as schedule
from shared.flux.text import PromptEmbedding, together

WIDTH, HEIGHT = 64, 48
BETA = tuple(float(sigma) for sigma in schedule("beta", 4))


@cache
def transformer() -> Any:
    return tiny.transformer()


def words(seed: int, dtype: torch.dtype = torch.float32) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, tiny.WIDTH, generator=generator)
    return PromptEmbedding(pooled, torch.randn(1, 12, tiny.WIDTH, generator=generator)).to("cpu", dtype)


def sample(sigmas: tuple[float, ...] = BETA, away: Away | None = None, seed: int = 7) -> Tensor:
    return denoise(transformer(), noise(WIDTH, HEIGHT, seed), sigmas, Branch(words(1)), 3.5, away)


@cache
def pipe() -> Any:
    made = tiny.pipeline()
    made.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_it_samples_as_diffusers_pipeline_does(cfg: float) -> None:
    """Given the same sigmas, noise and embeddings, without and with true guidance."""
    positive, negative = words(1), words(2)
    theirs = pipe()(
        prompt_embeds=positive.sequence, pooled_prompt_embeds=positive.pooled,
        negative_prompt_embeds=negative.sequence, negative_pooled_prompt_embeds=negative.pooled, true_cfg_scale=cfg,
        sigmas=list(BETA[:-1]), num_inference_steps=len(BETA) - 1, guidance_scale=3.5, width=WIDTH, height=HEIGHT,
        latents=pack(noise(WIDTH, HEIGHT, 7)), output_type="latent",
    ).images  # fmt: skip
    ours = sample(away=Away(Branch(negative), cfg))
    assert (ours - unpack(theirs, HEIGHT // 8, WIDTH // 8)).abs().max() < 1e-5


def test_same_seed_same_bytes_and_another_seed_another_picture() -> None:
    assert sample().numpy().tobytes() == sample().numpy().tobytes()
    assert not torch.equal(sample(), sample(seed=8))


def test_image_to_image_is_a_straight_line_of_arithmetic() -> None:
    """Two steps of a partial schedule, written out."""
    s0, s1, s2 = (float(sigma) for sigma in schedule("simple", 2, denoise=0.5))
    latent, fresh, branch = noise(WIDTH, HEIGHT, 1) * 0.3, noise(WIDTH, HEIGHT, 7), Branch(words(1))
    made = denoise(transformer(), start(fresh, (s0, s1, s2), latent), (s0, s1, s2), branch, 3.5)
    x0 = s0 * fresh + (1 - s0) * latent
    x1 = x0 + (s1 - s0) * predict(transformer(), x0, s0, branch, 3.5, 0, "cond").detach()
    x2 = x1 + (s2 - s1) * predict(transformer(), x1, s1, branch, 3.5, 1, "cond").detach()
    assert 0.5 < s0 < 0.9
    assert s2 == 0
    assert torch.equal(made, x2)


def test_a_faint_image_to_image_keeps_the_picture() -> None:
    latent = noise(WIDTH, HEIGHT, 1)
    sigmas = tuple(float(sigma) for sigma in schedule("karras", 3, denoise=0.2))
    made = denoise(transformer(), start(noise(WIDTH, HEIGHT, 7), sigmas, latent), sigmas, Branch(words(1)), 3.5)
    assert sigmas[0] < 0.05
    assert (made - latent).abs().mean() < 0.1


class Recorder(torch.nn.Module):
    """Keeps what the embedding of time is given, in place of the sinusoid, and goes on."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.given: list[Tensor] = []

    def forward(self, times: Tensor) -> Tensor:
        self.given.append(times)
        embedded: Tensor = self.inner(times)
        return embedded


def test_time_steps_keep_full_precision_in_a_bf16_model() -> None:
    """Not one of the 100 steps' times is rounded, as they are by the model's own forward."""
    model = tiny.transformer(double=1, single=1).to(torch.bfloat16)
    recorder = model.time_text_embed.time_proj = Recorder(model.time_text_embed.time_proj)
    sigmas = tuple(float(sigma) for sigma in schedule("beta", 100))
    x = denoise(model, noise(32, 32, 7), sigmas, Branch(words(1, torch.bfloat16)), 3.5)
    times = torch.cat(recorder.given[::2])
    assert x.dtype == torch.float32
    assert times.dtype == torch.float32
    assert np.allclose(times.numpy(), 1000 * np.array(sigmas[:-1]), rtol=1e-6)
    assert not model.time_text_embed._forward_pre_hooks, "nothing is left on the model"  # noqa: SLF001


def test_latents_are_kept_in_fp32_between_steps() -> None:
    """A step too small for bf16 still moves them."""
    model = tiny.transformer(double=1, single=1).to(torch.bfloat16)
    x = noise(32, 32, 7) + 100
    moved = denoise(model, x, (0.5, 0.49999), Branch(words(1, torch.bfloat16)), 3.5)
    assert 0 < (moved - x).abs().max() < 1e-3


@contextmanager
def noted(notes: list[str], text: str) -> Iterator[None]:
    notes.append(text)
    yield
    notes.append("end")


def test_each_branch_runs_in_its_own_identity_and_the_negative_one_from_its_step_on() -> None:
    notes: list[str] = []
    positive = Branch(words(1), lambda step, sigma: noted(notes, f"positive {step} {sigma:.2f}"))
    negative = Branch(words(2), lambda step, sigma: noted(notes, f"negative {step} {sigma:.2f}"))
    denoise(
        transformer(), noise(WIDTH, HEIGHT, 7), (1.0, 0.8, 0.4, 0.0), positive, 3.5, Away(negative, 2.0, start_step=1)
    )
    assert notes[::2] == ["positive 0 1.00", "positive 1 0.80", "negative 1 0.80", "positive 2 0.40", "negative 2 0.40"]
    assert set(notes[1::2]) == {"end"}


def test_without_true_guidance_the_negative_branch_costs_nothing() -> None:
    notes: list[str] = []
    negative = Branch(words(2), lambda step, sigma: noted(notes, ""))
    assert torch.equal(sample(away=Away(negative, 1.0)), sample())
    assert notes == []


def test_a_cache_keeps_the_branches_apart_and_nothing_for_the_next_run() -> None:
    """Of diffusers' first-block caches one that never skips changes nothing, one that does gives the same each time."""
    away = Away(Branch(words(2)), 2.0)

    def run(model: Any) -> Tensor:
        return denoise(model, noise(WIDTH, HEIGHT, 7), BETA, Branch(words(1)), 3.5, away)

    plain, careful, eager = run(transformer()), tiny.transformer(), tiny.transformer()
    careful.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    eager.enable_cache(FirstBlockCacheConfig(threshold=100.0))
    assert torch.equal(run(careful), plain)
    first = run(eager)
    assert not torch.equal(first, plain)
    assert torch.equal(run(eager), first)


def kept(model: Any) -> list[str]:
    """The branches of which a cache holds tensors."""
    registries = (getattr(module, "_diffusers_hook", None) for module in model.modules())
    hooks = (hook for registry in registries if registry is not None for hook in registry.hooks.values())
    managers = (getattr(hook, "state_manager", None) for hook in hooks)
    return [name for one in managers if one is not None for name in one._state_cache]  # noqa: SLF001


def test_a_run_leaves_no_tensors_in_a_cache_even_if_it_is_cancelled() -> None:
    """They would stay on the device, in nobody's books, until the next run."""
    model, held = tiny.transformer(), []
    model.enable_cache(FirstBlockCacheConfig(threshold=100.0))

    def look(step: Step) -> None:
        held.append(kept(model))
        if step.number == 2:
            raise Cancelled

    denoise(model, noise(WIDTH, HEIGHT, 7), BETA[:2], Branch(words(1)), 3.5, on_step=look)
    assert kept(model) == []
    with pytest.raises(Cancelled):
        denoise(model, noise(WIDTH, HEIGHT, 7), BETA, Branch(words(1)), 3.5, on_step=look)
    assert kept(model) == []
    assert all("cond" in one for one in held)


def test_guidance_is_told_to_the_model() -> None:
    x = noise(WIDTH, HEIGHT, 7)
    low, high = (predict(transformer(), x, 0.7, Branch(words(1)), guidance, 0, "cond") for guidance in (1.0, 7.0))
    assert not torch.equal(low, high)


def test_each_step_is_told_with_the_picture_it_foresees() -> None:
    steps: list[Step] = []
    made = denoise(transformer(), noise(WIDTH, HEIGHT, 7), BETA, Branch(words(1)), 3.5, on_step=steps.append)
    assert [(step.number, step.count) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step.sigma for step in steps] == list(BETA[:-1])
    assert torch.allclose(steps[-1].foreseen, made, atol=1e-6)


def test_a_cancelled_job_takes_no_further_step() -> None:
    taken: list[int] = []

    def cancel(step: Step) -> None:
        taken.append(step.number)
        if step.number == 2:
            raise Cancelled("no longer wanted")

    with pytest.raises(Cancelled):
        denoise(transformer(), noise(WIDTH, HEIGHT, 7), BETA, Branch(words(1)), 3.5, on_step=cancel)
    assert taken == [1, 2]


def test_calls_side_by_side_on_one_model_keep_their_times_apart() -> None:
    """Each step of all begins only once all have come to it, so that their calls overlap."""
    schedules = [tuple(float(sigma) for sigma in schedule("simple", 3, denoise=1 - 0.2 * each)) for each in range(4)]
    expected = [sample(sigmas) for sigmas in schedules]
    together = Barrier(len(schedules), timeout=60)

    @contextmanager
    def around(_step: int, _sigma: float) -> Iterator[None]:
        together.wait()
        yield

    def alongside(sigmas: tuple[float, ...]) -> Tensor:
        return denoise(transformer(), noise(WIDTH, HEIGHT, 7), sigmas, Branch(words(1), around), 3.5)

    for _ in range(3):
        with ThreadPoolExecutor(len(schedules)) as threads:
            found = list(threads.map(alongside, schedules))
        assert max((one - other).abs().max() for one, other in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_is_its_items_one_by_one(*, cached: bool) -> None:
    """In fp32 within 1e-5, with true guidance: each with its own noise, and words of its own or shared ones.

    So it is beside a cache of earlier steps, as long as it skips nothing: what it skips it skips for all.
    """
    model = tiny.transformer()
    if cached:
        model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    drawn = torch.cat([noise(WIDTH, HEIGHT, seed) for seed in (7, 8, 9)])
    own, away = [words(1), words(2), words(3)], Away(Branch(words(4)), 2.0)

    def run(x: Tensor, prompt: PromptEmbedding) -> Tensor:
        return denoise(model, x, BETA, Branch(prompt), 3.5, away)

    for prompts, given in ((own, together(own)), ([words(1)] * 3, words(1))):
        batch = run(drawn, given)
        alone = [run(drawn[each : each + 1], prompt) for each, prompt in enumerate(prompts)]
        assert (batch - torch.cat(alone)).abs().max() < 1e-5
        assert (alone[0] - alone[1]).abs().max() > 1e-2


def test_prompts_that_do_not_fit_are_said() -> None:
    """As many as latents or one; of one length, since padding is not masked."""
    x = noise(WIDTH, HEIGHT, 7)
    with pytest.raises(InvalidInput, match="there are 2 for 3 latents"):
        denoise(transformer(), x.expand(3, -1, -1, -1), BETA, Branch(together([words(1), words(2)])), 3.5)
    longer = PromptEmbedding(words(1).pooled, torch.zeros(1, 20, tiny.WIDTH))
    with pytest.raises(InvalidInput, match="they have 12 and 20 tokens"):
        together([words(1), longer])
    with pytest.raises(InvalidInput, match="they have no tokens"):
        together([])
    counted = [replace(words(seed), tokens_left_out=seed) for seed in (2, 3)]
    assert together(counted).tokens_left_out == 5


def told(calls: list[Call], answer: Mapping[str, Any]) -> Extra:
    """An extra that keeps what it is told, and always answers the same."""

    def extra(call: Call, /) -> Mapping[str, Any]:
        calls.append(call)
        return answer

    return extra


def test_an_extra_that_says_nothing_changes_no_bit() -> None:
    calls: list[Call] = []
    branch = Branch(words(1), extras=(told(calls, {}), told(calls, {"joint_attention_kwargs": {}})))
    made = denoise(transformer(), noise(WIDTH, HEIGHT, 7), BETA, branch, 3.5)
    assert torch.equal(made, sample())
    assert len(calls) == 8


def test_an_extra_is_told_what_the_transformer_is_about_to_get() -> None:
    """The very tensors, the step and how many there are, in each branch its own words."""
    given: list[dict[str, Any]] = []
    model = tiny.transformer()
    model.register_forward_pre_hook(lambda _, __, arguments: given.append(arguments), with_kwargs=True)
    calls: list[Call] = []
    extras = (told(calls, {}),)
    away = Away(Branch(words(2), extras=extras), 2.0, start_step=1)
    denoise(model, noise(WIDTH, HEIGHT, 7), (1.0, 0.5, 0.0), Branch(words(1), extras=extras), 3.5, away)
    assert [(call.step, call.count, call.sigma, call.guidance_scale) for call in calls] == [
        (0, 2, 1.0, 3.5), (1, 2, 0.5, 3.5), (1, 2, 0.5, 3.5),
    ]  # fmt: skip
    shared = (
        "hidden_states", "timestep", "guidance", "pooled_projections", "encoder_hidden_states", "txt_ids", "img_ids",
    )  # fmt: skip
    for call, arguments in zip(calls, given, strict=True):
        assert all(getattr(call, name) is arguments[name] for name in shared)
        assert set(arguments) == {*shared, "return_dict"}
    assert torch.equal(calls[2].pooled_projections, words(2).pooled)


def test_what_an_extra_answers_reaches_the_transformer() -> None:
    residuals = [torch.linspace(-1, 1, tiny.WIDTH).expand(1, 12, -1)]
    branch = Branch(words(1), extras=(told([], {"controlnet_block_samples": residuals}),))
    x = noise(WIDTH, HEIGHT, 7)
    with torch.no_grad():
        plain, other = (predict(transformer(), x, 0.7, one, 3.5, 0, "cond") for one in (Branch(words(1)), branch))
    assert (plain - other).abs().max() > 1e-3


def test_answers_of_several_extras_are_put_together() -> None:
    """Each may say something of its own to the attention; nothing is lost in silence."""
    one: dict[str, Any] = {"joint_attention_kwargs": {"a": 1}, "x": 2}
    other: dict[str, Any] = {"joint_attention_kwargs": {"b": 3}, "y": 4}
    assert merged([one, other]) == {"joint_attention_kwargs": {"a": 1, "b": 3}, "x": 2, "y": 4}
    assert one["joint_attention_kwargs"] == {"a": 1}, "an extra's own answer stays as it is"
    assert merged([]) == {}
    again: list[dict[str, Any]] = [{"x": 5}, {"joint_attention_kwargs": {"a": 6}}]
    for twice in again:
        with pytest.raises(ValueError, match="two extras give the transformer"):
            merged([one, twice])
