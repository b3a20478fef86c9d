"""Soft edges and the way back into the picture, against the formulas written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.swap.detailer.masks import laid_in, resized, soften
from services.swap.detailer.regions import Size
from shared.vision.blend import Mask, Region


def blurred(mask: Mask, kernel: int) -> NDArray[np.float64]:
    """A Gaussian of sigma 10 over so many pixels, row by row and column by column, the border mirrored."""
    half = kernel // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / 10.0) ** 2)
    weights /= weights.sum()
    soft = mask.astype(np.float64)
    for axis in (0, 1):
        padded = np.pad(soft, [(half, half) if axis == side else (0, 0) for side in (0, 1)], mode="reflect")
        length = soft.shape[axis]
        shifts = [np.take(padded, range(shift, shift + length), axis) for shift in range(kernel)]
        soft = np.tensordot(weights, np.stack(shifts), 1)
    return soft


def box(height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.float32)
    mask[height // 4 : height // 2 + 1, width // 3 : 2 * width // 3 + 1] = 1
    return mask


@pytest.mark.parametrize(
    ("shape", "feather", "kernel"),
    [((60, 80), 5, 11), ((100, 90), 20, 41), ((40, 90), 20, 21), ((42, 90), 30, 21), ((9, 9), 5, 5), ((11, 30), 5, 5)],
)
def test_the_kernel_is_twice_the_feather_and_one_or_about_half_the_shorter_side(
    shape: tuple[int, int], feather: int, kernel: int
) -> None:
    np.testing.assert_allclose(soften(box(*shape), feather), blurred(box(*shape), kernel), atol=2e-6)


@pytest.mark.parametrize(("shape", "feather"), [((60, 80), 0), ((3, 50), 5), ((2, 2), 20), ((1, 9), 4)])
def test_no_feather_and_masks_too_small_for_one_stay_as_they_are(shape: tuple[int, int], feather: int) -> None:
    mask = np.ones(shape, np.float32)
    assert soften(mask, feather) is mask


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 100), st.booleans())
def test_soft_masks_stay_from_0_to_1(height: int, width: int, feather: int, whole: bool) -> None:
    soft = soften(np.ones((height, width), np.float32) if whole else box(height, width), feather)
    assert soft.shape == (height, width)
    assert soft.min() >= 0
    assert soft.max() <= 1
    if whole:
        np.testing.assert_allclose(soft, 1, atol=1e-5)


def test_the_picture_shows_where_the_mask_is_0_and_the_crop_where_it_is_1() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (50, 60, 3), np.uint8)
    painted = generator.integers(0, 256, (20, 30, 3), np.uint8)
    region = Region(10, 20, 40, 40)
    mask = np.zeros((20, 30), np.float32)
    mask[5:10, 5:10], mask[12:14, 12:14] = 1, 0.25
    laid = laid_in(image, region, painted, mask)
    expected = image.astype(float)
    inside = expected[20:40, 10:40]
    inside += mask[..., None] * (painted - inside)
    np.testing.assert_array_equal(laid, np.rint(expected).astype(np.uint8))
    assert not np.array_equal(laid, image)


def test_resizing_to_the_same_size_changes_nothing_and_constants_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    np.testing.assert_array_equal(resized(image, Size(32, 16)), image)
    flat = np.full((11, 7, 3), 200, np.uint8)
    np.testing.assert_array_equal(resized(flat, Size(48, 80)), np.full((80, 48, 3), 200, np.uint8))


@pytest.mark.parametrize("side", [100, 101, 107])
def test_there_and_back_nothing_moves_and_the_edge_is_kept(side: int) -> None:
    """A ramp comes back in place, to its last column: sides that 16 does not divide cost nothing at the edge."""
    ramp = np.repeat(np.linspace(20, 220, side).round().astype(np.uint8)[None, :, None], side, axis=0).repeat(3, axis=2)
    there = resized(ramp, Size(112, 112))
    back = resized(there, Size(side, side)).astype(int)
    assert np.abs(back - ramp).max() <= 3


def test_another_colour_is_laid_in_without_a_visible_edge() -> None:
    """On a smooth ramp a crop that is 44 levels brighter.

    With the published feather no pixel differs from its neighbour by more than a tenth of that beyond the ramp's own
    step, and one of rounding; with a hard edge by all of it.
    """
    ramp = np.repeat(np.linspace(20, 180, 160).round().astype(np.uint8)[None, :, None], 120, axis=0).repeat(3, axis=2)
    region = Region(30, 20, 130, 100)
    crop = np.ascontiguousarray(region.of(ramp) + 44).astype(np.uint8)
    mask = np.zeros(region.size, np.float32)
    mask[25:55, 30:70] = 1

    def step(feather: int) -> int:
        laid = laid_in(ramp, region, crop, soften(mask, feather)).astype(int)
        return max(int(np.abs(np.diff(laid, axis=axis)).max()) for axis in (0, 1))

    own = int(np.abs(np.diff(ramp.astype(int), axis=1)).max())
    assert step(5) <= own + 44 / 10 + 1
    assert step(0) >= 44
