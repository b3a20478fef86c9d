"""Size and shape come out exactly, in the middle, without rings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.upscale.resample import crop_to_aspect, hold_within, magnify, resize
from tests.pictures import astronaut, psnr


@given(*(st.integers(1, 400) for _ in range(2)), *(st.integers(512, 8192) for _ in range(2)))
@settings(max_examples=50, deadline=None)
def test_the_crop_has_the_shape_asked_for_to_the_pixel_and_keeps_one_side_whole(
    have_width: int, have_height: int, width: int, height: int
) -> None:
    part = crop_to_aspect(np.zeros((have_height, have_width, 3), np.uint8), width, height)
    got_height, got_width = part.shape[:2]
    assert got_height == have_height or got_width == have_width
    assert abs(got_width - got_height * width / height) <= max(1.0, width / height)


def test_the_crop_is_centred() -> None:
    image = np.zeros((90, 200, 3), np.uint8)
    image[:, 55:145] = 255
    assert crop_to_aspect(image, 1024, 1024).min() == 255


def test_a_picture_of_the_right_shape_is_not_cropped() -> None:
    assert crop_to_aspect(astronaut(), 4096, 4096).shape == (512, 512, 3)


def test_magnification_keeps_the_shape_and_never_reduces() -> None:
    assert magnify(astronaut()[:100, :60], 4.0).shape == (400, 240, 3)
    assert magnify(astronaut(), 0.5).shape == (512, 512, 3)


@pytest.mark.parametrize(("width", "height"), [(700, 701), (100, 90), (512, 512)])
def test_a_resized_picture_has_exactly_the_size_asked_for(width: int, height: int) -> None:
    assert resize(astronaut(), width, height).shape == (height, width, 3)


def test_enlarging_and_reducing_again_gives_the_picture_back_unmoved() -> None:
    small = astronaut(256)
    assert psnr(resize(resize(small, 1024, 1024), 256, 256), small) > 32


def test_an_edge_enlarged_by_lanczos_rings_until_it_is_held_within_the_picture() -> None:
    edge = np.full((32, 32, 3), 60, np.uint8)
    edge[:, 16:] = 190
    enlarged = resize(edge, 128, 128)
    assert enlarged.min() < 55
    assert enlarged.max() > 195
    hold_within(enlarged, edge)
    assert (enlarged.min(), enlarged.max()) == (60, 190)


def test_holding_leaves_what_lies_between_its_neighbours_alone() -> None:
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    enlarged = resize(ramp, 256, 256)
    held = enlarged.copy()
    hold_within(held, ramp)
    assert np.array_equal(held[:, 8:-8], enlarged[:, 8:-8])
