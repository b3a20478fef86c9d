"""Euler's method along FLUX's flow as `shared.flux.denoise.denoise`, with each step's velocity predicted in tiles."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from services.refine.tiles import Blend, Tile
from shared.flux.denoise import Away, Branch, Step, caches_of_its_own, predict


@torch.no_grad()
def denoise_in_tiles(
    transformer: Any,
    x: Tensor,
    sigmas: Sequence[float],
    cut: Sequence[Tile],
    fade: int,
    branch: Branch,
    guidance: float,
    away: Away | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_tile: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """Sample. With one tile the result is `denoise`'s, bit by bit.

    Args:
        transformer: a `FluxTransformer2DModel`; as in `denoise` are x, sigmas, branch, guidance, away and on_step.
        x: [1, C, h, w] latent, noised to the first sigma.
        sigmas: one more than there are steps, descending.
        cut: the tiles that x is predicted in.
        fade: latent pixels, as in `Blend`.
        branch: what the picture is to be.
        guidance: the distilled guidance.
        away: what it is not to be.
        on_step: told each step when it is taken.
        on_tile: told which share of all is done, after each tile. What it raises ends the sampling.

    Returns:
        The latent [1, C, h, w] at the last sigma, fp32.
    """
    x = x.float()
    blend, count = Blend(cut, fade, x.device), len(sigmas) - 1
    with caches_of_its_own(transformer):
        for number in range(count):
            now, after = float(sigmas[number]), float(sigmas[number + 1])
            velocities = []
            for place, tile in enumerate(cut):
                part = tile.of(x)
                # each tile has a cache of its own of what it gave in earlier steps
                velocity = predict(transformer, part, now, branch, guidance, number, f"cond {place}", count)
                if away is not None and away.cfg != 1.0 and number >= away.start_step:
                    other = predict(transformer, part, now, away.branch, guidance, number, f"uncond {place}", count)
                    velocity = other + away.cfg * (velocity - other)
                velocities.append(velocity)
                on_tile((number + (place + 1) / len(cut)) / count)
            whole = blend.together(velocities)
            foreseen = x - now * whole
            x = x + (after - now) * whole
            on_step(Step(number + 1, count, now, foreseen))
    return x
