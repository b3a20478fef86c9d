"""How a large picture is cut into tiles that overlap, and how what is predicted for each becomes one prediction.

Each step's predictions are averaged where tiles overlap, with weights that fade towards a tile's inner edges, and the
averaged latent is what every tile sees in the next step: O. Bar-Tal et al., "MultiDiffusion: Fusing Diffusion Paths for
Controlled Image Generation", 2023, with soft weights. Tiles that are finished alone and pasted with a feather show the
mean of two textures that know nothing of each other in the overlap, which is half as strong there as beside it; here
they agree on one. It costs the same number of predictions.

All of it in latent pixels, and no model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOKEN = 2
"""Latent pixels along a side of a token: tiles begin at whole ones."""


class Tile(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of a latent, the ends left out."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, whole: Tensor) -> Tensor:
        """This part of a tensor [..., h, w], not copied."""
        return whole[..., self.top : self.bottom, self.left : self.right]


def tiles(height: int, width: int, side: int, overlap: int) -> tuple[Tile, ...]:
    """The tiles of a latent, row by row: one where neither side is longer than `side`.

    Otherwise they are spread evenly, so that they are of one size and neighbours share `overlap` or more.

    Args:
        height: of the latent, a multiple of TOKEN; so are all others.
        width: likewise.
        side: of a tile; of a latent that is narrower the latent's.
        overlap: less than `side`.
    """
    rows, columns = (_spans(length, side, overlap) for length in (height, width))
    return tuple(Tile(top, bottom, left, right) for top, bottom in rows for left, right in columns)


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    gaps = -(-(length - side) // (side - overlap))  # rounded up
    slack = (length - side) // TOKEN
    starts = [TOKEN * (slack * number // gaps) for number in range(gaps + 1)]
    return [(start, start + side) for start in starts]


class Blend:
    """Puts together what was predicted for each tile.

    Args:
        cut: the tiles, all that there are.
        fade: over how many latent pixels a tile's weight rises from its inner edges.
        device: where the predictions are.
    """

    def __init__(self, cut: Sequence[Tile], fade: int, device: torch.device | str = "cpu") -> None:
        self._tiles = tuple(cut)
        height, width = max(tile.bottom for tile in cut), max(tile.right for tile in cut)
        self._weights = [_weight(tile, height, width, fade).to(device) for tile in cut]
        self._sum = torch.zeros(height, width, device=device)
        for tile, weight in zip(self._tiles, self._weights, strict=True):
            tile.of(self._sum).add_(weight)

    def together(self, predictions: Sequence[Tensor]) -> Tensor:
        """Of predictions [1, C, ...] in the tiles' order the whole's. A single tile's is given back bit by bit."""
        first = predictions[0]
        whole = first.new_zeros(*first.shape[:-2], *self._sum.shape)
        for tile, weight, predicted in zip(self._tiles, self._weights, predictions, strict=True):
            tile.of(whole).add_(weight * predicted)
        return whole / self._sum


def _weight(tile: Tile, height: int, width: int, fade: int) -> Tensor:
    """[rows, columns]: 1 but towards inner edges, where it falls in a straight line almost to 0."""
    down = _ramp(tile.bottom - tile.top, fade, rises=tile.top > 0, falls=tile.bottom < height)
    across = _ramp(tile.right - tile.left, fade, rises=tile.left > 0, falls=tile.right < width)
    return down[:, None] * across[None, :]


def _ramp(length: int, fade: int, *, rises: bool, falls: bool) -> Tensor:
    distance = (torch.arange(length) + 0.5) / fade
    weight = torch.ones(length)
    if rises:
        weight = torch.minimum(weight, distance)
    if falls:
        weight = torch.minimum(weight, distance.flip(0))
    return weight
