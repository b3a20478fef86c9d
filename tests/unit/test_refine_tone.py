"""The tone curve is gentle, never turns back, and blows nothing out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.refine.tone import clarify, filmic
from shared.vision.filters import Plane

RAMP: Plane = np.linspace(0, 100, 2001, dtype=np.float32)[None]


@given(st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_lighter_stays_lighter_and_black_stays_black(strength: float) -> None:
    bent = filmic(RAMP, strength)
    assert (np.diff(bent) > 0).all()
    assert bent[0, 0] == pytest.approx(0, abs=1e-3)


@given(st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_highlights_are_held_back(strength: float) -> None:
    bent = filmic(RAMP, strength)
    high = RAMP >= 98
    assert (bent[high] <= RAMP[high] + 1e-3).all()


def test_middle_tones_gain_contrast_and_shadows_deepen() -> None:
    bent = filmic(RAMP, 1.0)
    slope = np.gradient(bent[0], RAMP[0])
    assert slope[1000] > 1.15
    assert slope[20] < 0.8
    assert slope[-20] < 0.8
    assert bent[0, 500] < RAMP[0, 500]


def test_no_strength_is_no_change() -> None:
    assert np.array_equal(filmic(RAMP, 0.0), RAMP)
    assert np.array_equal(clarify(RAMP.repeat(128, axis=0), 0.0), RAMP.repeat(128, axis=0))


def test_clarity_raises_fine_texture_in_step_with_its_strength() -> None:
    texture = 50 + np.random.Generator(np.random.PCG64(0)).normal(0, 2, (256, 256)).astype(np.float32)
    spreads = [float(clarify(texture, strength).std()) for strength in (0.0, 0.3, 0.6, 1.0)]
    assert spreads == sorted(spreads)
    assert spreads[-1] > 1.5 * spreads[0]


def test_clarity_draws_no_halo_along_a_large_edge() -> None:
    edge = np.full((256, 256), 20, np.float32)
    edge[:, 128:] = 80
    assert np.abs(clarify(edge, 1.0) - edge).max() < 1.5
