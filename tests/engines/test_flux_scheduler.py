"""Our scheduler is diffusers' in fp32, and stays fp32 where theirs rounds; our schedules are what diffusers gives."""

from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image

from shared.contracts.errors import InvalidInput
from shared.flux.scheduler import SigmaScheduler, take_float32
from shared.flux.schedules import DiffusersScheduler, Scheduler, diffusers_sigmas, sigmas

STEPS = 6
"""Of whose times bf16 would move each but the first."""


def tiny_transformer(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return (
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
        .eval()
        .to(dtype)
    )


@cache
def tiny_vae() -> Any:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    ).eval()


def pipeline(kind: Any, scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    made = kind(
        scheduler=scheduler,
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny_transformer(dtype),
    )
    made.set_progress_bar_config(disable=True)
    return made


def embedded() -> dict[str, torch.Tensor]:
    """A prompt, as the text encoders would give it."""
    generator = torch.Generator().manual_seed(1)
    return {
        "prompt_embeds": torch.randn(1, 8, 32, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 32, generator=generator),
    }


def latents_of(made: Any, **more: Any) -> list[torch.Tensor]:
    """The latents after each step."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"])
        return {}

    made(
        **embedded(),
        **{"height": 32, "width": 32} | more,
        generator=torch.Generator().manual_seed(7),
        callback_on_step_end=keep,
        output_type="latent",
    )
    return seen


def theirs() -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)


@pytest.mark.parametrize("scheduler", ["beta", "karras", "simple"])
def test_with_the_same_sigmas_its_steps_are_diffusers_own(scheduler: Scheduler) -> None:
    given = sigmas(scheduler, 12, 0.6)
    ours, reference = SigmaScheduler(given.tolist()), theirs()
    ours.set_timesteps()
    reference.set_timesteps(sigmas=given[:-1].tolist())
    assert torch.equal(ours.sigmas, reference.sigmas)
    assert torch.equal(ours.timesteps, reference.timesteps)
    generator = torch.Generator().manual_seed(0)
    mine = other = torch.randn(1, 16, 8, generator=generator)
    for time in ours.timesteps:
        velocity = torch.randn(1, 16, 8, generator=generator)
        mine = ours.step(velocity, time, mine).prev_sample
        other = reference.step(velocity, time, other).prev_sample
        assert torch.equal(mine, other)


def test_narrow_model_output_leaves_the_latents_wide() -> None:
    """Each step adds what float64 would add; diffusers' latents come back as bf16 and lose 8 bits each time."""
    given = sigmas("beta", 20)
    ours, reference = SigmaScheduler(given.tolist()), theirs()
    reference.set_timesteps(sigmas=given[:-1].tolist())
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 16, 8, generator=generator)
    mine = rounded = start
    exact = start.double()
    for index, time in enumerate(ours.timesteps):
        velocity = torch.randn(1, 16, 8, generator=generator).bfloat16()
        (mine,) = ours.step(velocity, time, mine, return_dict=False)
        rounded = reference.step(velocity, time, rounded).prev_sample
        exact = exact + (given[index + 1] - given[index]) * velocity.double()
    assert mine.dtype == torch.float32
    assert (mine - exact).abs().max() < 1e-6
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() > 1e-3


def test_a_flux_pipeline_runs_with_it_as_with_diffusers_own() -> None:
    given = sigmas("beta", 4)
    ours = latents_of(pipeline(FluxPipeline, SigmaScheduler(given.tolist())))
    reference = latents_of(pipeline(FluxPipeline, theirs()), sigmas=given[:-1].tolist())
    assert len(ours) == 4
    assert all(torch.equal(mine, other) for mine, other in zip(ours, reference, strict=True))


def test_a_run_leaves_nothing_behind_for_the_next() -> None:
    made = pipeline(FluxPipeline, SigmaScheduler(sigmas("simple", 3).tolist()))
    assert torch.equal(latents_of(made)[-1], latents_of(made)[-1])


def test_an_image_to_image_pipeline_starts_from_the_first_sigma() -> None:
    """All of the shortened schedule is run, with strength 1; diffusers' scheduler gives the same."""
    given = sigmas("simple", 3, 0.4)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    more = {"image": picture, "strength": 1.0}
    ours = latents_of(pipeline(FluxImg2ImgPipeline, SigmaScheduler(given.tolist())), **more)
    reference = latents_of(pipeline(FluxImg2ImgPipeline, theirs()), sigmas=given[:-1].tolist(), **more)
    assert len(ours) == 3
    for mine, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def times_seen(dtype: torch.dtype, exact: bool) -> tuple[list[float], list[torch.Tensor]]:
    """The times that the sines are taken of, and the latents, with weights of a type."""
    made = pipeline(FluxPipeline, SigmaScheduler(sigmas("beta", STEPS).tolist()), dtype)
    if exact:
        take_float32(made.transformer)
    seen: list[float] = []
    made.transformer.time_text_embed.time_proj.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].double().item())
    )
    return seen, latents_of(made, guidance_scale=3.5)


def test_narrow_weights_see_exact_times_and_wide_latents() -> None:
    seen, latents = times_seen(torch.bfloat16, exact=True)
    np.testing.assert_allclose(seen[0::2], sigmas("beta", STEPS)[:-1] * 1000, rtol=3e-7)
    assert seen[1::2] == [3500.0] * STEPS
    assert {value.dtype for value in latents} == {torch.float32}


def test_wide_weights_are_given_what_they_were_given_before() -> None:
    _, plain = times_seen(torch.float32, exact=False)
    _, hooked = times_seen(torch.float32, exact=True)
    torch.testing.assert_close(hooked[-1], plain[-1], rtol=0, atol=1e-5)


def test_the_hooks_can_be_taken_off() -> None:
    transformer = tiny_transformer(torch.bfloat16)
    take_float32(transformer)()
    assert not transformer._forward_pre_hooks  # noqa: SLF001
    assert not transformer.time_text_embed._forward_pre_hooks  # noqa: SLF001


def test_it_is_kept_and_read_as_diffusers_keeps_schedulers(tmp_path: Path) -> None:
    given = sigmas("karras", 5).tolist()
    SigmaScheduler(given).save_pretrained(tmp_path)
    assert torch.equal(SigmaScheduler.from_pretrained(tmp_path).sigmas, SigmaScheduler(given).sigmas)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    given = sigmas("simple", 6)
    ours, reference = SigmaScheduler(given.tolist()), theirs()
    reference.set_timesteps(sigmas=given[:-1].tolist())
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    for begin in (None, 2):
        for scheduler in (ours, reference):
            if begin is not None:
                scheduler.set_begin_index(begin)
        times = ours.timesteps[[1, 3]]
        torch.testing.assert_close(ours.scale_noise(clean, times, noise), reference.scale_noise(clean, times, noise))


@pytest.mark.parametrize("given", [[], [0.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0]])
def test_what_is_no_schedule_is_refused(given: list[float]) -> None:
    with pytest.raises(InvalidInput, match="sigmas"):
        SigmaScheduler(given)


@pytest.mark.parametrize("scheduler", get_args(DiffusersScheduler))
@pytest.mark.parametrize("steps", [4, 28, 50, 100])
@pytest.mark.parametrize("mu", [0.63, 1.15, 3.23])
def test_diffusers_sigmas_are_what_its_scheduler_gives(scheduler: DiffusersScheduler, steps: int, mu: float) -> None:
    options = {} if scheduler == "default" else {f"use_{scheduler}_sigmas": True}
    reference = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=mu)
    np.testing.assert_allclose(diffusers_sigmas(scheduler, steps, mu=mu), reference.sigmas.numpy(), rtol=0, atol=1e-6)
