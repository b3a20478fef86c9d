"""Tiles cover a picture evenly, and what was predicted for each becomes one picture without a seam."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.refine import sampling
from services.refine.sampling import denoise_in_tiles
from services.refine.tiles import TOKEN, Blend, Tile, tiles
from shared.flux import tiny
from shared.flux.denoise import Away, Branch, Step, denoise
from shared.flux.text import PromptEmbedding

EVEN = st.integers(1, 90).map(lambda number: TOKEN * number)
SIDES = st.integers(8, 32).map(lambda number: TOKEN * number)


@given(height=EVEN, width=EVEN, side=SIDES, quarter=st.integers(1, 4))
def test_tiles_cover_all_alike_and_share_what_was_asked(height: int, width: int, side: int, quarter: int) -> None:
    overlap = side * quarter // 8 // TOKEN * TOKEN or TOKEN
    cut = tiles(height, width, side, overlap)
    seen = torch.zeros(height, width)
    for tile in cut:
        tile.of(seen).add_(1)
        assert (tile.bottom - tile.top, tile.right - tile.left) == (min(side, height), min(side, width))
        assert tile.top % TOKEN == tile.left % TOKEN == 0
    assert seen.min() >= 1
    for starts in (sorted({tile.top for tile in cut}), sorted({tile.left for tile in cut})):
        assert all(later - earlier <= side - overlap for earlier, later in pairwise(starts))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (2, 128), (64, 96)])
def test_what_a_tile_holds_is_one_tile(height: int, width: int) -> None:
    assert tiles(height, width, 128, 16) == (Tile(0, height, 0, width),)


def test_a_large_picture_takes_few_tiles() -> None:
    """2048 x 1536 pixels in tiles of 1024 that share 128: nine and six are needed, and no more are made."""
    assert len(tiles(256, 192, 128, 16)) == 3 * 2
    assert len(tiles(256, 256, 128, 16)) == 3 * 3


@given(height=EVEN, width=EVEN, side=SIDES, seed=st.integers(0, 9))
def test_tiles_that_agree_give_what_they_agree_on(height: int, width: int, side: int, seed: int) -> None:
    cut = tiles(height, width, side, side // 4 * TOKEN // 2 or TOKEN)
    whole = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    together = Blend(cut, fade=8).together([tile.of(whole) for tile in cut])
    torch.testing.assert_close(together, whole, rtol=1e-5, atol=1e-6)
    if len(cut) == 1:
        assert torch.equal(together, whole)


def test_tiles_that_differ_fade_into_each_other_without_a_seam() -> None:
    """The worst case: each tile has a brightness of its own. From pixel to pixel it changes no more than a ramp's."""
    fade = 16
    cut = tiles(160, 224, 96, fade)
    levels = torch.randn(len(cut), generator=torch.Generator().manual_seed(3))
    flat = [torch.full((1, 1, 96, 96), float(level)) for level in levels]
    contrast = float(levels.max() - levels.min())
    whole = Blend(cut, fade).together(flat)
    assert steepest(whole) <= 1.05 * contrast / fade
    pasted = torch.zeros_like(whole)
    for tile, part in zip(cut, flat, strict=True):
        tile.of(pasted).copy_(part)
    assert steepest(pasted) > 10 * steepest(whole)


def steepest(picture: Tensor) -> float:
    return max(float(picture.diff(dim=axis).abs().max()) for axis in (-1, -2))


def prompt(seed: int) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    return PromptEmbedding(
        pooled=torch.randn(1, tiny.WIDTH, generator=generator),
        sequence=torch.randn(1, 6, tiny.WIDTH, generator=generator),
        tokens_left_out=0,
    )


def latent(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(seed))


SIGMAS = (0.6, 0.4, 0.2, 0.0)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_one_tile_is_the_untiled_sampling_bit_by_bit(cfg: float) -> None:
    transformer: Any = tiny.transformer()
    away = Away(Branch(prompt(2)), cfg, 1)
    told: list[list[Step]] = [[], []]
    asked = (Branch(prompt(1)), 3.5, away)
    plain = denoise(transformer, latent(8, 12), SIGMAS, *asked, told[0].append)
    tiled = denoise_in_tiles(transformer, latent(8, 12), SIGMAS, tiles(8, 12, 32, 4), 4, *asked, told[1].append)
    assert torch.equal(tiled, plain)
    assert [step.sigma for step in told[1]] == [step.sigma for step in told[0]]
    assert all(torch.equal(one.foreseen, other.foreseen) for one, other in zip(*told, strict=True))


def test_a_smooth_picture_stays_smooth_where_tiles_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient, and a model that draws whatever it is shown towards its mean: tiles disagree in their brightness.

    Tiles pasted without a fade, or averaged with equal weights, step by six times the gradient's own step or more.
    """

    def to_its_mean(_: Any, x: Tensor, *_rest: object) -> Tensor:
        return x - x.mean(dim=(-1, -2), keepdim=True)

    monkeypatch.setattr(sampling, "predict", to_its_mean)
    model = SimpleNamespace(is_cache_enabled=False)
    across = torch.linspace(-1, 1, 80).expand(1, 16, 32, 80)
    done = denoise_in_tiles(model, across, SIGMAS, tiles(32, 80, 32, 8), 8, Branch(prompt(1)), 3.5)
    assert done.diff(dim=-1).min() > 0
    assert steepest(done) < 2.5 * steepest(across)


def test_each_tile_is_told_and_the_last_ends_it() -> None:
    told: list[float] = []
    cut = tiles(8, 24, 16, 8)
    denoise_in_tiles(
        tiny.transformer(), latent(8, 24), (0.5, 0.2, 0.0), cut, 8, Branch(prompt(1)), 3.5, on_tile=told.append
    )
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_a_cache_of_earlier_steps_is_each_tile_s_own() -> None:
    """With a cache that always repeats, each tile repeats what it gave itself, in every run."""
    from diffusers import FirstBlockCacheConfig

    transformer: Any = tiny.transformer()
    transformer.enable_cache(FirstBlockCacheConfig(threshold=1000.0))
    x, sigmas, branch = latent(8, 24), (0.6, 0.5999, 0.0), Branch(prompt(1))
    cut = tiles(8, 24, 16, 8)
    runs = [denoise_in_tiles(transformer, x, sigmas, cut, 8, branch, 3.5) for _ in range(2)]
    assert torch.equal(*runs)
    plain: Any = tiny.transformer()
    exact = denoise_in_tiles(plain, x, sigmas, cut, 8, branch, 3.5)
    torch.testing.assert_close(runs[0], exact, rtol=0, atol=1e-2)
