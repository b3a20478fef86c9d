"""Paints crops of one size anew, at once, each within its mask: autoencoder, FLUX, autoencoder.

Source: ComfyUI Impact Pack, `enhance_detail`. Cycles repeat the sampling on their own result's latent, each with the
next seed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from services.swap.detailer.masks import resized, soften
from services.swap.detailer.plan import Ready
from services.swap.stage import DetailParams
from shared.contracts.errors import Permanent
from shared.flux.decode import decode_all, encode_all
from shared.flux.denoise import Away, Branch, Step
from shared.flux.inpaint import denoise_within, latent_mask
from shared.flux.latents import PIXELS_PER_LATENT, noise
from shared.vision.blend import Mask
from shared.vision.codec import Image


class Brush(NamedTuple):
    """What crops are painted with.

    Attributes:
        transformer: FLUX's.
        vae: its autoencoder.
        device: the transformer's.
        branch: what they are to be.
        away: what they are not to be.
        tiled_from: pixels from which the autoencoder works in tiles; its own bound where None.
    """

    transformer: Any
    vae: Any
    device: str
    branch: Branch
    away: Away | None
    tiled_from: int | None


def painted(
    image: Image,
    lot: Sequence[Ready],
    levels: Sequence[float],
    seed: int,
    brush: Brush,
    params: DetailParams,
    on_step: Callable[[int, Step], None],
) -> list[Image]:
    """Crops of a picture, painted anew in the size that their lot has.

    Args:
        image: uint8 RGB.
        lot: of one size and of the same words; none overlaps another.
        levels: the noise levels, as `noise_levels` gives them for that size.
        seed: the step's.
        brush: what to paint with.
        params: the step's.
        on_step: told of each step, and in which cycle, from 0. What it raises ends the painting.

    Raises:
        Permanent: a model gives values that are no numbers, which would show as black.
    """
    size = lot[0].size
    latents = encode_all(brush.vae, [resized(one.crop.region.of(image), size) for one in lot], brush.tiled_from)
    _check_finite(latents, f"the autoencoder of {params.model}")
    latents = latents.to(brush.device)
    rows = [noise_mask(one.crop.mask, params, size.width, size.height) for one in lot]
    masks = torch.cat(rows).to(brush.device)
    for cycle in range(params.cycles):
        drawn = [noise(size.width, size.height, seed + one.crop.number + cycle) for one in lot]

        def tell(step: Step, cycle: int = cycle) -> None:
            on_step(cycle, step)

        latents = denoise_within(
            brush.transformer,
            torch.cat(drawn).to(brush.device),
            latents,
            masks,
            levels,
            brush.branch,
            params.guidance,
            brush.away,
            tell,
            differential=params.noise_mask and params.noise_mask_feather > 0,
        )
        _check_finite(latents, f"the transformer of {params.model}")
    try:
        return decode_all(brush.vae, latents, brush.tiled_from)
    except Permanent as error:
        raise Permanent(f"the autoencoder of {params.model}: {error}") from error


def noise_mask(mask: Mask, params: DetailParams, width: int, height: int) -> Tensor:
    """Where a crop is painted: its mask with soft edges, [1, 1, height / 8, width / 8]; all of it without `noise_mask`.

    As in ComfyUI the mask is softened in the crop's own pixels and scaled straight to the latent, bilinearly.
    """
    if not params.noise_mask:
        return torch.ones(1, 1, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    return latent_mask(soften(mask, params.noise_mask_feather), width, height)


def _check_finite(latents: Tensor, whose: str) -> None:
    broken = int((~torch.isfinite(latents)).sum())
    if broken:
        raise Permanent(
            f"{whose} gives {broken} of {latents.numel()} values that are no finite numbers. Compute in bf16 or fp32 "
            "instead of fp16, and check the weights' digest with `doctorgen models verify`."
        )
