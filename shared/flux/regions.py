"""Who stands where: masks over a picture's tokens, so that each of several people acts in a part of it alone.

FLUX sees one token per 16 x 16 pixels. A person's mask is the weight of their identity at each token
(`shared.flux.pulid.context.Subject.mask`); where people overlap, their weights are scaled to add up to 1, since two
identities at full weight in one place would give neither.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from shared.contracts.errors import InvalidInput
from shared.flux.pulid.artifact import PulidIdentity
from shared.flux.pulid.context import Subject

TOKEN_PIXELS: Final = 16
"""Side of the square of pixels that one token stands for."""


class Region(NamedTuple):
    """A rectangle, in shares of the picture's width and height.

    Attributes:
        left: 0 is the picture's left side, 1 its right one.
        top: 0 is the picture's upper side, 1 its lower one.
        right: above `left`.
        bottom: above `top`.
        feather: width of the soft edge, a share of the picture's longer side. The edge lies within the rectangle, and
            there is none at the picture's own sides. 0: each token is within or without.
    """

    left: float
    top: float
    right: float
    bottom: float
    feather: float = 0.0


def masks(regions: Sequence[Region], width: int, height: int) -> list[Tensor]:
    """Each region's weight at each token.

    Alone, a region weighs 1 in its middle and 0 outside; however small or soft, one token at least has the whole
    weight. Where regions overlap, their weights are divided by their sum if it is above 1.

    Args:
        regions: of one picture.
        width: of the picture in pixels, a multiple of 16.
        height: likewise.

    Returns:
        For each region [T] in fp32, T = width / 16 * height / 16, row by row.

    Raises:
        InvalidInput: the size is no multiple of 16, or a region has no area or reaches beyond the picture.
    """
    if width % TOKEN_PIXELS or height % TOKEN_PIXELS or min(width, height) < TOKEN_PIXELS:
        found = f"the picture is {width} x {height}"
        raise InvalidInput("width", found, f"Choose sides that are multiples of {TOKEN_PIXELS} pixels.")
    for number, one in enumerate(regions, 1):
        _check(one, number)
    if not regions:
        return []
    alone = torch.stack([_alone(one, width, height) for one in regions])
    return list((alone / alone.sum(0).clamp(min=1.0)).float())


def subjects(
    identities: Sequence[PulidIdentity],
    regions: Sequence[Region],
    weight: float | Sequence[float],
    start_step: int,
    width: int,
    height: int,
    device: str | torch.device,
    dtype: torch.dtype,
    tokens: Literal["id", "uncond"] = "id",
) -> list[Subject]:
    """The people of one picture, for `shared.flux.pulid.context.IdentityCall`.

    Args:
        identities: one for each person.
        regions: one for each person, in the same order; none for one person who may be anywhere.
        weight: how strongly each is held to their identity, or one weight for all.
        start_step: the first denoising step in which they act.
        width: of the picture in pixels, a multiple of 16.
        height: likewise.
        device: the transformer's.
        dtype: the transformer's.
        tokens: "id" is who they are; "uncond" is nobody, in the same places, for the negative branch of true guidance.

    Raises:
        InvalidInput: as `masks`, or the people and the regions or weights do not count the same.
    """
    count = len(identities)
    if regions and len(regions) != count:
        found = f"there are {len(regions)} for {_people(count)}"
        raise InvalidInput("regions", found, "Give one for each person, in the order of the identities.")
    if count > 1 and not regions:
        raise InvalidInput("regions", f"there are none for {_people(count)}", "Give one for each person.")
    weights = [weight] * count if isinstance(weight, int | float) else list(weight)
    if len(weights) != count:
        found = f"there are {len(weights)} for {_people(count)}"
        raise InvalidInput("identity_weight", found, "Give one for all, or one for each person.")
    places: list[Tensor | None] = [one.to(device) for one in masks(regions, width, height)] or [None] * count
    return [
        Subject(
            tokens=(one.id if tokens == "id" else one.uncond)[None].to(device, dtype),
            weight=strength,
            start_step=start_step,
            mask=place,
        )
        for one, strength, place in zip(identities, weights, places, strict=True)
    ]


def _alone(region: Region, width: int, height: int) -> Tensor:
    """The region's weight [T] in fp64, as if it were the only one."""
    feather = region.feather * max(width, height)
    across = _along(region.left, region.right, feather, width)
    down = _along(region.top, region.bottom, feather, height)
    return torch.outer(down, across).flatten()


def _along(first: float, last: float, feather: float, side: int) -> Tensor:
    """The weight along one side of the picture, at the middle of each of its tokens; the largest is 1.

    Soft edges that meet before the whole weight is reached are scaled up to it.
    """
    start, end = first * side, last * side
    middles = (torch.arange(side // TOKEN_PIXELS, dtype=torch.float64) + 0.5) * TOKEN_PIXELS
    within = ((middles >= start) & (middles < end)).double()
    if not within.any():  # so narrow that it lies between two middles: then the token that it lies on
        within[min(int((start + end) / 2 / TOKEN_PIXELS), len(middles) - 1)] = 1.0
        return within
    if feather == 0:
        return within
    rising = torch.ones_like(middles) if first <= 0 else (middles - start) / feather
    falling = torch.ones_like(middles) if last >= 1 else (end - middles) / feather
    soft = within * torch.minimum(rising, falling).clamp(0.0, 1.0)
    peak = soft.max()
    return soft / peak if peak > 0 else within


def _check(region: Region, number: int) -> None:
    left, top, right, bottom, feather = region
    inside = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    if not inside:
        found = f"number {number} is left {left}, top {top}, right {right}, bottom {bottom}"
        raise InvalidInput("regions", found, "Give shares from 0 to 1, left below right and top below bottom.")
    if not 0 <= feather <= 1:
        raise InvalidInput("regions", f"number {number} has a feather of {feather}", "Give a share from 0 to 1.")


def _people(count: int) -> str:
    return "one person" if count == 1 else f"{count} people"
