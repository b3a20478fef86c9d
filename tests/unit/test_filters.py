"""The filters smooth what they should and keep what they should."""

import numpy as np
import pytest

from shared.vision.filters import Plane, gaussian, guided, within_neighbourhood


def noise(deviation: float) -> Plane:
    return np.random.Generator(np.random.PCG64(0)).normal(0, deviation, (128, 128)).astype(np.float32)


def edge() -> Plane:
    plane = np.full((128, 128), 20, np.float32)
    plane[:, 64:] = 80
    return plane


def test_the_guided_filter_takes_noise_and_keeps_a_strong_edge() -> None:
    smooth = guided(edge() + noise(1.5), 4, epsilon=16.0)
    assert smooth[:, :48].std() < 0.5
    assert smooth[:, 65].mean() - smooth[:, 62].mean() > 55


def test_a_larger_epsilon_smooths_more() -> None:
    spreads = [float(guided(noise(3), 4, epsilon).std()) for epsilon in (0.1, 4.0, 100.0)]
    assert spreads[0] > spreads[1] > spreads[2]


def test_a_gaussian_keeps_the_mean_and_a_tiny_one_keeps_the_plane() -> None:
    plane = noise(3) + 50
    assert gaussian(plane, 2.0).mean() == pytest.approx(plane.mean(), abs=0.05)
    assert np.array_equal(gaussian(plane, 0.1), plane)


def test_a_sharpened_edge_is_held_between_its_two_sides() -> None:
    plane = edge()
    sharpened = plane + 2 * (plane - gaussian(plane, 2.0))
    assert sharpened.max() > 90
    held = within_neighbourhood(sharpened, plane, 3)
    assert (held.min(), held.max()) == (20, 80)
