"""The sigmas are ComfyUI's, and diffusers', to 1e-6: held against their formulas written out one value at a time."""

import math
import subprocess
import sys
from functools import cache
from typing import get_args

import numpy as np
import pytest

from shared.contracts.errors import InvalidInput
from shared.flux.schedules import SCHEDULERS, DiffusersScheduler, Scheduler, diffusers_sigmas, shift_for, sigmas

STEPS = (4, 8, 20, 28, 35, 50, 100, 150)
DENOISE = (0.1, 0.2, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 1.0)
SIZES = ((512, 512), (896, 1152), (1024, 1024), (1536, 1536), (2048, 2048))
EQUAL = 1e-6


def shifted(mu: float, time: float) -> float:
    return math.exp(mu) / (math.exp(mu) + (1.0 / time - 1.0))


def tabled(mu: float, index: int) -> float:
    """ComfyUI's `model_sampling.sigmas[index]`."""
    return shifted(mu, (index + 1) / 10_000)


def evenly(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * (step / (count - 1)) for step in range(count)]


def karras(first: float, last: float, count: int) -> list[float]:
    return [root**7 for root in evenly(first ** (1 / 7), last ** (1 / 7), count)]


def exponential(first: float, last: float, count: int) -> list[float]:
    return [math.exp(logarithm) for logarithm in evenly(math.log(first), math.log(last), count)]


@cache
def quantile(share: float) -> float:
    """Of the beta distribution. `scipy.stats` takes a second to import, in every process that collects the tests."""
    from scipy import stats

    return float(stats.beta.ppf(share, 0.6, 0.6))


def comfy_beta(count: int, mu: float) -> list[float]:
    kept: list[float] = []
    previous = -1
    for step in range(count):
        index = round(quantile(1.0 - step / count) * 9999)
        if index != previous:
            kept.append(tabled(mu, index))
        previous = index
    return kept


def comfy(scheduler: str, steps: int, denoise: float, mu: float) -> list[float]:
    """ComfyUI's `calculate_sigmas` and `set_steps`, with plain loops."""
    whole = int(steps / denoise) if denoise <= 0.9999 else steps
    first, last = tabled(mu, 9_999), tabled(mu, 0)
    values = {
        "simple": lambda: [tabled(mu, 10_000 - (1 + int(step * (10_000 / whole)))) for step in range(whole)],
        "normal": lambda: [shifted(mu, time) for time in evenly(first, last, whole)],
        "sgm_uniform": lambda: [shifted(mu, time) for time in evenly(first, last, whole + 1)[:-1]],
        "karras": lambda: karras(first, last, whole),
        "exponential": lambda: exponential(first, last, whole),
        "beta": lambda: comfy_beta(whole, mu),
    }[scheduler]()
    return [*values, 0.0][-(steps + 1) :]


def diffusers(scheduler: str, steps: int, strength: float, mu: float) -> list[float]:
    """Diffusers' `set_timesteps` and `get_timesteps`, with plain loops."""
    plain = [shifted(mu, time) for time in evenly(1.0, 1.0 / steps, steps)]
    first, last = plain[0], plain[-1]
    values = {
        "default": lambda: plain,
        "karras": lambda: karras(first, last, steps),
        "exponential": lambda: exponential(first, last, steps),
        "beta": lambda: [last + quantile(1.0 - step / (steps - 1)) * (first - last) for step in range(steps)],
    }[scheduler]()
    return [*values[int(steps - min(steps * strength, steps)) :], 0.0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", STEPS)
def test_comfyui_s_sigmas_at_its_fixed_shift(scheduler: Scheduler, steps: int) -> None:
    for denoise in DENOISE:
        np.testing.assert_allclose(
            sigmas(scheduler, steps, denoise), comfy(scheduler, steps, denoise, 1.15), rtol=0, atol=EQUAL
        )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_comfyui_s_sigmas_at_the_shift_of_a_size(scheduler: Scheduler, width: int, height: int) -> None:
    mu = shift_for(width, height)
    for steps, denoise in ((4, 1.0), (28, 0.4), (35, 0.2), (100, 1.0), (150, 0.1)):
        np.testing.assert_allclose(
            sigmas(scheduler, steps, denoise, mu), comfy(scheduler, steps, denoise, mu), rtol=0, atol=EQUAL
        )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_number_of_steps_from_4_to_150_descends_to_zero(scheduler: Scheduler) -> None:
    for steps in range(4, 151):
        for denoise in DENOISE:
            found = sigmas(scheduler, steps, denoise)
            assert found.dtype == np.float64
            assert found[-1] == 0.0
            assert np.all(np.diff(found) < 0.0)
            assert found[0] <= 1.0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_denoise_takes_as_many_steps(scheduler: Scheduler) -> None:
    assert {len(sigmas(scheduler, 35, denoise)) for denoise in DENOISE} == {36}


def test_beta_drops_neighbours_that_fall_together_beyond_551_steps() -> None:
    assert len(sigmas("beta", 551)) == len(comfy_beta(551, 1.15)) + 1 == 552
    assert len(sigmas("beta", 552)) == len(comfy_beta(552, 1.15)) + 1 == 552


def test_the_published_values_of_beta_20() -> None:
    published = [1, .995976, .987112, .974265, .957517, .936776, .911804, .882162, .847311, .806681, .759584, .705124,
                 .642623, .571364, .491175, .402498, .306970, .208760, .115485, .039039, 0]  # fmt: skip
    np.testing.assert_allclose(sigmas("beta", 20), published, rtol=0, atol=EQUAL)


def test_the_published_values_of_beta_100() -> None:
    published = {0: 1, 10: 0.987112, 25: 0.936776, 50: 0.759584, 75: 0.402498, 90: 0.115485, 95: 0.039039, 99: 0.003151}
    found = sigmas("beta", 100)
    np.testing.assert_allclose([found[index] for index in published], list(published.values()), rtol=0, atol=EQUAL)


def test_karras_35_at_denoise_0_4_barely_changes_a_picture() -> None:
    """It starts at 2.4 % of noise, where simple starts at 68 %: the name alone does not say what a run does."""
    found = sigmas("karras", 35, 0.4)
    np.testing.assert_allclose(found[:4], [0.023876, 0.021700, 0.019696, 0.017854], rtol=0, atol=EQUAL)
    np.testing.assert_allclose(found[-3:], [0.000376, 0.000316, 0.0], rtol=0, atol=EQUAL)


@pytest.mark.parametrize(
    ("denoise", "of_karras", "of_simple", "of_beta"),
    [
        (0.2, 0.0037, 0.4412, 0.3070),
        (0.3, 0.0101, 0.5772, 0.4941),
        (0.4, 0.0239, 0.6801, 0.6457),
        (0.5, 0.0507, 0.7595, 0.7596),
        (0.6, 0.1043, 0.8278, 0.8499),
    ],
)
def test_where_35_steps_start(denoise: float, of_karras: float, of_simple: float, of_beta: float) -> None:
    starts = [sigmas(scheduler, 35, denoise)[0] for scheduler in ("karras", "simple", "beta")]
    np.testing.assert_allclose(starts, [of_karras, of_simple, of_beta], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("width", "height", "mu"),
    [(512, 512, 0.63), (1024, 1024, 1.15), (896, 1152, 1.139), (1536, 1536, 2.017), (2048, 2048, 3.23)],
)
def test_the_shift_of_a_size(width: int, height: int, mu: float) -> None:
    assert shift_for(width, height) == pytest.approx(mu, abs=6e-3)


@pytest.mark.parametrize("scheduler", get_args(DiffusersScheduler))
@pytest.mark.parametrize("steps", STEPS)
def test_diffusers_sigmas(scheduler: DiffusersScheduler, steps: int) -> None:
    for strength in DENOISE:
        for mu in (0.63, 1.15, 3.23):
            np.testing.assert_allclose(
                diffusers_sigmas(scheduler, steps, strength, mu),
                diffusers(scheduler, steps, strength, mu),
                rtol=0,
                atol=EQUAL,
            )


def test_how_far_diffusers_beta_lies_from_comfyui_s() -> None:
    """At 100 steps by up to 0.268 (ComfyUI 0.643, diffusers 0.375): the shift survives in the last sigma alone."""
    comfyui_s, theirs = sigmas("beta", 100), diffusers_sigmas("beta", 100)
    widest = int(np.argmax(np.abs(comfyui_s - theirs)))
    assert comfyui_s[widest] - theirs[widest] == pytest.approx(0.268, abs=5e-4)
    assert comfyui_s[widest] == pytest.approx(0.643, abs=5e-4)
    assert theirs[widest] == pytest.approx(0.375, abs=5e-4)


def test_how_far_diffusers_karras_lies_from_comfyui_s() -> None:
    """35 steps at 0.4: diffusers takes 14 from sigma 0.242, ComfyUI 35 from 0.0239: ten times less noise."""
    comfyui_s, theirs = sigmas("karras", 35, 0.4), diffusers_sigmas("karras", 35, 0.4)
    assert (len(comfyui_s), len(theirs)) == (36, 15)
    assert theirs[0] == pytest.approx(0.242, abs=5e-4)
    assert theirs[0] / comfyui_s[0] == pytest.approx(10.1, abs=0.1)


def test_diffusers_own_schedule_is_nearly_comfyui_s_simple() -> None:
    assert np.max(np.abs(diffusers_sigmas("default", 28) - sigmas("simple", 28))) < 2.5e-4


@pytest.mark.parametrize(
    ("scheduler", "steps", "denoise", "says"),
    [
        ("euler", 20, 1.0, "Choose one of simple, normal"),
        ("beta", 0, 1.0, "at least one step"),
        ("beta", 20, 0.0, "from 0.01 to 1"),
        ("beta", 20, 1.5, "from 0.01 to 1"),
        ("beta", 20, math.nan, "found nan"),
    ],
)
def test_what_is_out_of_range_is_refused(scheduler: Scheduler, steps: int, denoise: float, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        sigmas(scheduler, steps, denoise)


def test_one_step_goes_from_all_noise_to_none() -> None:
    for scheduler in SCHEDULERS:
        np.testing.assert_allclose(sigmas(scheduler, 1), [1.0, 0.0])  # type: ignore[arg-type]


def test_schedules_need_no_torch() -> None:
    """In a process of its own, where nothing else has imported it."""
    found = "import sys, shared.flux.schedules; sys.exit('torch' in sys.modules or 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", found], check=False).returncode == 0
