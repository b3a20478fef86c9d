"""The noise levels of a step's sampling, from its parameters."""

from typing import Literal

from shared.flux.params import Sampling
from shared.flux.schedules import shift_for, sigmas, strength_cut


def noise_levels(
    how: Sampling, width: int, height: int, denoise: float = 1.0, cut: Literal["comfy", "strength"] = "comfy"
) -> list[float]:
    """The schedule's sigmas, descending and ending in 0, one more than there are steps.

    Args:
        how: the scheduler, the steps and the shift.
        width: of the picture in pixels, which decides the shift where none is given.
        height: likewise.
        denoise: above 0, at most 1: how much is painted anew.
        cut: `comfy` takes the last `steps` of a longer schedule, so that less denoising is not fewer steps; `strength`,
            as diffusers, takes fewer steps.
    """
    mu = shift_for(width, height) if how.shift is None else how.shift
    if cut == "comfy":
        levels = sigmas(how.scheduler, how.steps, denoise, mu)
    else:
        levels = strength_cut(sigmas(how.scheduler, how.steps, mu=mu), denoise)
    return [float(level) for level in levels]
