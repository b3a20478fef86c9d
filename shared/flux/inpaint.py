"""Sampling within a mask, as ComfyUI does it: what lies outside is given back, what lies between is half each.

At each step, with m the mask, z the latent that is to be kept and n the noise:

    the model sees      x m + (sigma n + (1 - sigma) z) (1 - m)
    D, what it foresees = that - sigma * v(that, sigma)
    what is foreseen    = D m + z (1 - m)
    x'                  = foreseen + sigma' / sigma * (x - foreseen), which is Euler's step

The sampler's own x is not blended, so that a soft mask weighs once, at the end, and not again at each step: diffusers'
inpainting blends x itself after each step, and its soft edges compound. For masks of 0 and 1 both give the same.

Sources: ComfyUI `comfy/samplers.py` (KSamplerX0Inpaint), `comfy/model_sampling.py` (CONST.noise_scaling,
ModelSamplingFlux: a time is its sigma), `comfy/utils.py` (reshape_mask), `comfy/k_diffusion/sampling.py`
(sample_euler), `comfy_extras/nodes_differential_diffusion.py`; E. Levin, O. Fried, "Differential Diffusion: Giving Each
Pixel Its Strength", 2023.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shared.contracts.errors import InvalidInput
from shared.flux.denoise import Away, Branch, Step, caches_of_its_own, guided
from shared.flux.latents import PIXELS_PER_LATENT, PIXELS_PER_TOKEN
from shared.flux.schedules import MU, TABLE_LENGTH, shifted
from shared.vision.blend import Mask

ROUNDING: Final = 1e-6
"""By how much a mask of 1 may miss it: a blur's weights, rounded to fp32, do not always add up to 1."""

SIGMA_MIN: Final = float(shifted(np.array([1 / TABLE_LENGTH]), MU)[0])
"""The smallest sigma of ComfyUI's table, 3.16e-4, at which its differential denoising has let in the whole mask."""


def latent_mask(mask: Mask, width: int | None = None, height: int | None = None) -> Tensor:
    """A picture's mask in a latent's size, as ComfyUI makes it: bilinear, without a filter against aliasing.

    Args:
        mask: [H, W] in fp32 from 0, kept, to 1, painted anew.
        width: of the picture that is painted, a multiple of 16 pixels; the mask's own where None.
        height: likewise.

    Returns:
        [1, 1, height / 8, width / 8] in fp32 on the CPU.

    Raises:
        InvalidInput: a side is no multiple of 16, or a value is not from 0 to 1.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise InvalidInput("mask", f"has the shape {mask.shape}", "Pass rows and columns.")
    height, width = height or mask.shape[0], width or mask.shape[1]
    if height % PIXELS_PER_TOKEN or width % PIXELS_PER_TOKEN:
        found = f"is for a picture of {width} x {height}"
        raise InvalidInput("mask", found, f"Paint one whose sides are multiples of {PIXELS_PER_TOKEN} pixels.")
    whole = torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]
    _check_range(whole)
    scaled = interpolate(whole, (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT), mode="bilinear")
    return scaled.clamp(0.0, 1.0)  # weights that are rounded may add up to a little more


def let_in(masks: Tensor, sigma: float, sigmas: Sequence[float]) -> Tensor:
    """What of soft masks is painted at a step of differential denoising: 1 where the mask has reached the threshold.

    The threshold falls from 1 at the first of the sigmas to 0 at SIGMA_MIN, or at their last if it is above: what is 1
    is painted from the beginning, what is less from a later step on, what is next to 0 perhaps never. It is the rule of
    ComfyUI's node but for two things. At SIGMA_MIN itself, the last level of `karras`, the node lets in even what is 0,
    by 0.0003 of noise; here what is 0 is never painted. And where a blurred mask's middle is less than 1 by ROUNDING,
    the node paints nothing in the first step; here the middle is painted from the beginning all the same.
    """
    first, last = float(sigmas[0]), max(float(sigmas[-1]), SIGMA_MIN)
    threshold = (sigma - last) / (first - last) if first > last else 0.0
    return ((masks + ROUNDING >= threshold) & (masks > 0.0)).to(masks.dtype)


@torch.no_grad()
def denoise_within(
    transformer: Any,
    noise: Tensor,
    latents: Tensor,
    masks: Tensor,
    sigmas: Sequence[float],
    branch: Branch,
    guidance: float,
    away: Away | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    *,
    differential: bool = False,
) -> Tensor:
    """Sample within masks with Euler's method. As many steps are taken as sigmas say, however little is masked.

    Args:
        transformer: as in `shared.flux.denoise.denoise`; so are `sigmas`, `branch`, `guidance`, `away` and `on_step`.
        noise: [B, C, h, w], not yet mixed with the latents; its device is the transformer's.
        latents: [B, C, h, w], what is there.
        masks: [B, 1, h, w] or [1, 1, h, w], from 0, kept, to 1, painted anew (`latent_mask`).
        sigmas: ending in 0, where what is kept is to be the latents' own.
        branch: what the pictures are to be.
        guidance: the distilled guidance.
        away: what they are not to be. The masks act on the guided prediction, once.
        on_step: told each step; what it foresees is blended with the latents.
        differential: soft masks say when painting begins, not how much of it shows (`let_in`).

    Returns:
        [B, C, h, w] in fp32; where a mask is 0, the latents bit by bit.

    Raises:
        InvalidInput: shapes do not fit each other, masks hold other values than 0 to 1, or there are too many prompts.
    """
    _check(noise, latents, masks)
    noise, latents, masks = noise.float(), latents.to(noise.device).float(), masks.to(noise.device).float()
    count = len(sigmas) - 1
    x = float(sigmas[0]) * noise + (1.0 - float(sigmas[0])) * latents
    with caches_of_its_own(transformer):
        for number in range(count):
            now, after = float(sigmas[number]), float(sigmas[number + 1])
            inside = let_in(masks, now, sigmas) if differential else masks
            shown = x * inside + (now * noise + (1.0 - now) * latents) * (1.0 - inside)
            velocity = guided(transformer, shown, now, branch, guidance, away, number, count)
            foreseen = (shown - now * velocity) * inside + latents * (1.0 - inside)
            x = foreseen + (after / now) * (x - foreseen)
            on_step(Step(number + 1, count, now, foreseen))
    return x


def _check(noise: Tensor, latents: Tensor, masks: Tensor) -> None:
    if noise.ndim != 4 or latents.shape != noise.shape:
        found = f"are {tuple(latents.shape)} beside noise of {tuple(noise.shape)}"
        raise InvalidInput("latents", found, "Pass both as [batch, channels, rows, columns].")
    batch, _, height, width = noise.shape
    if masks.ndim != 4 or masks.shape[0] not in {1, batch} or masks.shape[1:] != (1, height, width):
        found = f"are {tuple(masks.shape)} beside latents of {tuple(latents.shape)}"
        raise InvalidInput("masks", found, "Pass them as [batch, 1, rows, columns]; latent_mask makes one.")
    _check_range(masks)


def _check_range(masks: Tensor) -> None:
    if not bool(((masks >= 0.0) & (masks <= 1.0)).all()):  # no number is neither
        found = f"holds values from {float(masks.min()):g} to {float(masks.max()):g}"
        raise InvalidInput("mask", found, "Pass values from 0, kept, to 1, painted anew.")
