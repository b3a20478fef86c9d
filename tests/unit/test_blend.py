"""A changed patch goes back into a picture without a trace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.vision.blend import (
    Lab,
    Region,
    feather,
    from_lab,
    lay_over,
    match_colour,
    membrane,
    place,
    polygon_mask,
    settle,
    to_lab,
)
from shared.vision.codec import Image
from tests.pictures import astronaut

SQUARE = np.array([(20, 20), (80, 20), (80, 80), (20, 80)], np.float32)


def pixels(seed: int, height: int = 40, width: int = 40) -> Image:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 3)).astype(np.uint8)


def flat(light: float, a: float, b: float, size: tuple[int, int] = (40, 40)) -> Lab:
    return np.full((*size, 3), (light, a, b), np.float32)


def test_a_region_is_cut_at_the_borders_and_never_leaves_the_picture() -> None:
    image = pixels(1, height=30, width=50)
    region = Region.around(np.array([(-5.0, 10.0), (60.0, 12.0)], np.float32), 3.0, image)
    assert (region.left, region.top, region.right, region.bottom) == (0, 7, 50, 16)
    assert region.of(image).shape[:2] == region.size


def test_a_region_beside_the_picture_is_empty() -> None:
    assert Region.around(np.array([(-9.0, 5.0), (-4.0, 9.0)], np.float32), 1.0, pixels(1)).empty


def test_a_feathered_mask_is_nought_outside_full_inside_and_never_jumps() -> None:
    inside = polygon_mask((100, 100), SQUARE)
    mask = feather(inside, inset_px=3, width_px=12)
    assert mask[inside == 0].max() == 0
    assert mask[50, 50] == 1
    steps = max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max())
    assert steps <= 1.5 / 12 + 1e-6


def test_a_mask_cut_by_the_picture_stays_opaque_at_its_border() -> None:
    mask = feather(polygon_mask((100, 50), SQUARE), inset_px=0, width_px=10)
    assert mask[50, 49] == 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_lab_and_back_is_off_by_one_grey_level_at_most(seed: int) -> None:
    image = pixels(seed)
    back = from_lab(to_lab(image)).astype(int)
    assert np.abs(back - image).max() <= 1


def test_lab_and_back_gives_a_photos_own_bytes_almost_everywhere() -> None:
    photo = astronaut()
    assert (from_lab(to_lab(photo)) != photo).mean() < 1e-3


def test_where_the_mask_is_nought_the_pictures_own_bytes_stand_and_where_it_is_one_the_patch() -> None:
    base, patch = pixels(1), pixels(2)
    mask = np.zeros((40, 40), np.float32)
    mask[10:20] = 1
    mixed = lay_over(base, patch, mask)
    assert np.array_equal(mixed[10:20], patch[10:20])
    assert np.array_equal(mixed[20:], base[20:])


def test_placing_a_patch_leaves_the_picture_it_came_from_alone() -> None:
    image = pixels(1)
    before = image.copy()
    placed = place(image, Region(5, 6, 10, 12), np.zeros((6, 5, 3), np.uint8))
    assert np.array_equal(image, before)
    assert placed[6:12, 5:10].max() == 0


def test_a_picture_matched_to_itself_keeps_its_colours() -> None:
    lab = to_lab(astronaut())
    assert np.allclose(match_colour(lab, lab, np.ones(lab.shape[:2], np.float32), 1.0), lab, atol=1e-3)


@given(st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_the_median_colour_moves_all_the_way_in_proportion_to_the_strength(strength: float) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    source = (flat(60, 18, 22) + generator.normal(0, 2, (40, 40, 3))).astype(np.float32)
    target = (flat(45, 12, 16) + generator.normal(0, 2, (40, 40, 3))).astype(np.float32)
    matched = match_colour(source, target, np.ones((40, 40), np.float32), strength)
    have, aim = np.median(source, axis=(0, 1)), np.median(target, axis=(0, 1))
    assert np.median(matched, axis=(0, 1)) == pytest.approx(have + strength * (aim - have), abs=0.2)


def test_white_highlights_stay_neutral_when_warm_skin_turns_cooler() -> None:
    source, target = flat(65, 24, 40), flat(70, 12, 18)
    source[:4] = (97, 0, 0)
    matched = match_colour(source, target, np.ones((40, 40), np.float32), 1.0)
    assert np.hypot(*matched[0, 0, 1:]) < 10
    assert matched[20, 20] == pytest.approx(target[20, 20], abs=1e-3)


def test_a_few_stray_pixels_do_not_sway_the_match() -> None:
    source, target = flat(60, 15, 20), flat(50, 15, 20)
    target[:8] = (5, 0, 0)
    matched = match_colour(source, target, np.ones((40, 40), np.float32), 1.0)
    assert matched[20, 20] == pytest.approx((50, 15, 20), abs=1e-3)


def test_a_membrane_over_a_constant_rim_is_that_constant() -> None:
    weights = np.zeros((60, 80), np.float32)
    weights[:3] = weights[-3:] = 1
    filled = membrane(flat(4, -2, 7, (60, 80)) * weights[..., None], weights)
    assert np.allclose(filled, flat(4, -2, 7, (60, 80)), atol=1e-2)


@given(st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_a_membrane_stays_between_the_lowest_and_the_highest_of_its_rim(seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    values = generator.uniform(-5, 5, (33, 47, 3)).astype(np.float32)
    weights = np.zeros((33, 47), np.float32)
    weights[0] = weights[-1] = 1
    rim = values[weights > 0]
    filled = membrane(values, weights)
    assert filled.min() >= rim.min() - 1e-3
    assert filled.max() <= rim.max() + 1e-3


def test_a_patch_that_already_meets_the_picture_is_not_settled() -> None:
    lab = to_lab(astronaut())[:100, :100]
    assert np.array_equal(settle(lab, lab, feather(polygon_mask((100, 100), SQUARE), 2, 20), 12.0), lab)


def test_a_patch_takes_the_light_of_what_surrounds_it_up_to_the_limit() -> None:
    mask = feather(polygon_mask((100, 100), SQUARE), 2, 20)
    source = flat(50, 10, 10, (100, 100))
    near, far = flat(56, 10, 10, (100, 100)), flat(90, 10, 10, (100, 100))
    assert settle(source, near, mask, 12.0)[50, 50, 0] == pytest.approx(56, abs=0.1)
    assert settle(source, far, mask, 12.0)[50, 50, 0] == pytest.approx(62, abs=0.1)
