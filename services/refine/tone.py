"""The tone of a photograph: a filmic curve and local contrast, on lightness alone so that colours keep their hue."""

import numpy as np

from shared.vision.filters import Plane, guided

_CONTRAST = 4.0
_WHITE = 98.0
"""Full strength never prints paper white: the shoulder ends at this L*."""


def filmic(light: Plane, strength: float) -> Plane:
    """Bend lightness (L*, 0 to 100) along a gentle S: deeper shadows, firmer middle tones, highlights that roll off.

    A logistic curve through 0, the middle and `_WHITE`. It never decreases, and no value rises above its own where it
    was above `_WHITE`, so that nothing is blown out that was not.
    """
    ends = _logistic(np.array([0.0, 1.0], np.float32))
    curve = (_logistic(light / np.float32(100)) - ends[0]) / (ends[1] - ends[0])
    return np.asarray(light + np.float32(strength) * (_WHITE * curve - light), np.float32)


def clarify(light: Plane, strength: float) -> Plane:
    """Raise local contrast: what a guided filter takes for detail grows, most in the middle tones.

    Large edges stay as they are, so no halo forms along them. The neighbourhood is a sixty-fourth of the shorter side.
    """
    radius = max(min(light.shape) // 64, 2)
    detail = light - guided(light, radius, epsilon=36.0)
    middle = np.clip(light * (100 - light) / 2500, 0, 1)
    return np.asarray(light + strength * middle * detail, np.float32)


def _logistic(share: Plane) -> Plane:
    return np.asarray(1 / (1 + np.exp(-_CONTRAST * (share - np.float32(0.5)))), np.float32)
