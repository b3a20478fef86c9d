"""Grain is what the seed says, as strong as asked for, and absent in black and white."""

import numpy as np
import pytest

from services.refine.grain import add_grain
from shared.vision.filters import Plane


def grey(light: float) -> Plane:
    return np.full((256, 256), light, np.float32)


@pytest.mark.parametrize("size_px", [0.0, 0.5, 2.0])
def test_grain_at_middle_grey_has_the_deviation_asked_for_whatever_its_size(size_px: float) -> None:
    grain = add_grain(grey(50), 0.8, size_px, seed=1) - 50
    assert grain.std() == pytest.approx(0.8, rel=0.01)
    assert abs(grain.mean()) < 0.1


def test_the_same_seed_gives_the_same_grain_and_another_gives_other_grain() -> None:
    first, same, other = (add_grain(grey(50), 0.8, 0.5, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, same)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02


def test_black_and_white_carry_none_and_the_middle_the_most() -> None:
    spreads = [float(add_grain(grey(light), 0.8, 0.5, 1).std()) for light in (0, 10, 50, 90, 100)]
    assert spreads[0] == spreads[-1] == 0
    assert max(spreads) == spreads[2]


def test_larger_grains_are_smoother() -> None:
    fine, coarse = (add_grain(grey(50), 0.8, size, 1) for size in (0.0, 1.5))
    assert np.abs(np.diff(coarse)).mean() < 0.6 * np.abs(np.diff(fine)).mean()


def test_no_deviation_is_no_grain() -> None:
    assert np.array_equal(add_grain(grey(50), 0.0, 0.5, 1), grey(50))
