"""Noise schedules of flow matching, as ComfyUI and as diffusers spell them: pure functions of NumPy.

Sigma is the share of noise in a latent, 1 (all noise) to 0. A schedule is the descending sigmas between which a sampler
steps, with the final 0. The two programs give different lists under the same names: ComfyUI's `beta` warps the index
into a table of shifted sigmas, diffusers' warps linearly between the ends; ComfyUI's `karras` runs down to the table's
smallest sigma, diffusers' to that of its last step.

Sources: ComfyUI `comfy/samplers.py` and `comfy/model_sampling.py`; diffusers `FlowMatchEulerDiscreteScheduler`;
T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, equation 5 (karras);
T. Lee et al., "Beta Sampling is All You Need", 2024 (beta).
"""

import math
from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from shared.contracts.errors import InvalidInput

Sigmas = NDArray[np.float64]
Scheduler = Literal["simple", "normal", "sgm_uniform", "karras", "exponential", "beta"]
DiffusersScheduler = Literal["default", "karras", "exponential", "beta"]
SCHEDULERS: Final[tuple[str, ...]] = get_args(Scheduler)

MU: Final = 1.15
"""The shift of FLUX.1-dev at 1024 x 1024, and ComfyUI's at any size unless a node says otherwise."""
TABLE_LENGTH: Final = 10_000
RHO: Final = 7.0
ALPHA = BETA = 0.6
WHOLE: Final = 0.9999
"""From this denoise on a run is whole."""
LEAST: Final = 0.01
"""The smallest denoise or strength; below, the whole schedule would be longer than the table that it is taken from."""

BASE_SHIFT, MAX_SHIFT = 0.5, 1.15
BASE_TOKENS, MAX_TOKENS = 256, 4096
PIXELS_PER_TOKEN: Final = 16 * 16


def shift_for(width: int, height: int, base: float = BASE_SHIFT, top: float = MAX_SHIFT) -> float:
    """The shift mu of a picture's size: linear in its tokens of 16 x 16 pixels, `base` at 256, `top` at 4096.

    It goes on beyond both ends, as diffusers' `calculate_shift` and ComfyUI's ModelSamplingFlux node do.
    """
    slope = (top - base) / (MAX_TOKENS - BASE_TOKENS)
    return base + slope * (width * height / PIXELS_PER_TOKEN - BASE_TOKENS)


def shifted(times: NDArray[np.float64], mu: float) -> Sigmas:
    """Sigmas of times in (0, 1]: e^mu / (e^mu + (1/t - 1)), exactly 1 at 1."""
    scale = math.exp(mu)
    moved: Sigmas = scale / (scale + (1.0 / times - 1.0))
    return moved


def sigmas(scheduler: Scheduler, steps: int, denoise: float = 1.0, mu: float = MU) -> Sigmas:
    """ComfyUI's sigmas.

    Args:
        scheduler: which kind.
        steps: how many steps the sampler takes, 1 or more.
        denoise: 0.01 to 1. Below 1 a schedule of int(steps / denoise) steps is made and its last `steps` are taken: a
            picture is changed less, in as many steps.
        mu: the shift.

    Returns:
        `steps` + 1 descending float64 values, the last one 0. Fewer from `beta` beyond 551 steps, where neighbours
        fall together.

    Raises:
        InvalidInput: one of them is out of its range.
    """
    _check(scheduler, SCHEDULERS, steps, denoise, "denoise")
    whole = steps if denoise > WHOLE else int(steps / denoise)
    return np.append(_KINDS[scheduler](whole, mu), 0.0)[-(steps + 1) :]


def diffusers_sigmas(scheduler: DiffusersScheduler, steps: int, strength: float = 1.0, mu: float = MU) -> Sigmas:
    """The sigmas of diffusers' FLUX pipelines.

    Below a `strength` of 1 the first steps of the schedule are left out, so that fewer are taken; that is what their
    image-to-image and inpainting pipelines do.

    Returns:
        Descending float64 values, the last one 0.

    Raises:
        InvalidInput: as `sigmas`.
    """
    _check(scheduler, get_args(DiffusersScheduler), steps, strength, "strength")
    plain = shifted(np.linspace(1.0, 1.0 / steps, steps), mu)
    first, last = plain[0], plain[-1]
    spaced: Sigmas
    match scheduler:
        case "default":
            spaced = plain
        case "karras":
            spaced = _karras(first, last, steps)
        case "exponential":
            spaced = _exponential(first, last, steps)
        case "beta":
            spaced = last + betaincinv(ALPHA, BETA, 1.0 - np.linspace(0.0, 1.0, steps)) * (first - last)
    return strength_cut(np.append(spaced, 0.0), strength)


def strength_cut(levels: Sigmas, strength: float) -> Sigmas:
    """What diffusers' image-to-image takes of a whole schedule: fewer steps, the first ones left out.

    Args:
        levels: one more than there are steps, the last one 0.
        strength: above 0, to 1. One step at least is taken.
    """
    steps = len(levels) - 1
    skipped = min(int(max(steps - min(steps * strength, steps), 0)), steps - 1)
    return levels[skipped:]


def _table(mu: float) -> Sigmas:
    """ComfyUI's sigmas of all its time steps, rising."""
    return shifted(np.arange(1, TABLE_LENGTH + 1) / TABLE_LENGTH, mu)


def _simple(steps: int, mu: float) -> Sigmas:
    backwards = 1 + (np.arange(steps) * (TABLE_LENGTH / steps)).astype(int)
    picked: Sigmas = _table(mu)[-backwards]
    return picked


def _normal(steps: int, mu: float) -> Sigmas:
    table = _table(mu)
    return shifted(np.linspace(table[-1], table[0], steps), mu)


def _sgm_uniform(steps: int, mu: float) -> Sigmas:
    table = _table(mu)
    return shifted(np.linspace(table[-1], table[0], steps + 1)[:-1], mu)


def _beta(steps: int, mu: float) -> Sigmas:
    """The indices are whole numbers; of equal neighbours one is kept."""
    evenly = 1.0 - np.linspace(0.0, 1.0, steps, endpoint=False)
    indices = np.rint(betaincinv(ALPHA, BETA, evenly) * (TABLE_LENGTH - 1)).astype(int)
    differs = np.append(True, indices[1:] != indices[:-1])
    kept: Sigmas = _table(mu)[indices[differs]]
    return kept


def _karras(first: float, last: float, steps: int) -> Sigmas:
    ramp = np.linspace(0.0, 1.0, steps)
    spaced: Sigmas = (first ** (1 / RHO) + ramp * (last ** (1 / RHO) - first ** (1 / RHO))) ** RHO
    return spaced


def _exponential(first: float, last: float, steps: int) -> Sigmas:
    spaced: Sigmas = np.exp(np.linspace(np.log(first), np.log(last), steps))
    return spaced


def _between_the_table_s_ends(space: Callable[[float, float, int], Sigmas]) -> Callable[[int, float], Sigmas]:
    def spaced(steps: int, mu: float) -> Sigmas:
        table = _table(mu)
        return space(table[-1], table[0], steps)

    return spaced


_KINDS: Final[dict[str, Callable[[int, float], Sigmas]]] = {
    "simple": _simple,
    "normal": _normal,
    "sgm_uniform": _sgm_uniform,
    "karras": _between_the_table_s_ends(_karras),
    "exponential": _between_the_table_s_ends(_exponential),
    "beta": _beta,
}


def _check(scheduler: str, known: tuple[str, ...], steps: int, share: float, name: str) -> None:
    if scheduler not in known:
        raise InvalidInput("scheduler", f"there is no '{scheduler}'", f"Choose one of {', '.join(known)}.")
    if steps < 1:
        raise InvalidInput("steps", f"found {steps}", "Take at least one step.")
    if not LEAST <= share <= 1.0:
        raise InvalidInput(name, f"found {share}", f"Choose a value from {LEAST} to 1.")
