"""Artefacts in made-up pictures: blocks, clipping, seams."""

import numpy as np
import pytest

from shared.vision.codec import Image, decode
from shared.vision.measures import blockiness, clipped_share, seam
from tests.photos import astronaut, coffee, hopper, jpeg, scaled
from tests.photos import png as as_png


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(60, 200, (height, width, 3), np.uint8)


def test_noise_has_neither_blocks_nor_seams_nor_clipping() -> None:
    assert blockiness(noise(256, 320), 8) == pytest.approx(1.0, abs=0.05)
    assert seam(noise(256, 320)) < 4.0
    assert clipped_share(noise(256, 320)) == 0.0


@pytest.mark.parametrize("period", [8, 16])
def test_blocks_are_seen_at_their_period_and_at_whole_parts_of_it(period: int) -> None:
    """Each block a little lighter or darker."""
    levels = np.random.default_rng(1).integers(-12, 12, (256 // period, 320 // period, 1))
    blocks = np.repeat(np.repeat(levels, period, 0), period, 1)
    image = np.clip(scaled(noise(32, 40), 8.0).astype(int) + blocks, 0, 255).astype(np.uint8)
    assert blockiness(image, period) > 1.6
    assert blockiness(image, 7) < 1.2


@pytest.mark.parametrize("photo", [astronaut(), coffee(), hopper()], ids=["astronaut", "coffee", "hopper"])
def test_jpeg_shows_the_more_the_stronger_it_is(photo: Image) -> None:
    """The default bound of 1.6 lets quality 75 pass and fails quality 20."""
    none, mild, strong = (blockiness(decode(data), 8) for data in (as_png(photo), jpeg(photo, 75), jpeg(photo, 20)))
    assert none < 1.25
    assert mild < 1.3
    assert strong > 1.75


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8), (17, 17), (24, 9)])
def test_pictures_of_any_size_are_measured(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    assert np.isfinite([blockiness(image, 8), blockiness(image, 16), seam(image), clipped_share(image)]).all()


@pytest.mark.parametrize("level", [0, 100, 255])
def test_a_flat_picture_has_no_blocks_and_no_seams(level: int) -> None:
    image = np.full((64, 64, 3), level, np.uint8)
    assert (blockiness(image, 8), seam(image)) == (1.0, 1.0)
    assert clipped_share(image) == (0.0 if level == 100 else 1.0)


def test_only_pixels_clipped_in_all_channels_count() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    image[0], image[1], image[2], image[3] = 0, 255, (255, 0, 0), (255, 255, 254)
    assert clipped_share(image) == pytest.approx(0.2)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_edge_of_a_tile_stands_out(axis: int) -> None:
    """Four grey levels, invisible in the steps of single pixels."""
    whole = scaled(astronaut(), 4.0).astype(int)
    tiled = whole.copy()
    half = np.moveaxis(tiled, axis, 0)[1024:]
    half += 4
    assert seam(whole.astype(np.uint8)) < 3.0
    assert seam(np.clip(tiled, 0, 255).astype(np.uint8)) > 6.0
