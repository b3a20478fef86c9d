"""Colours in linear light: reading them, turning pictures into it and back, and the colour of a temperature."""

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Linear: TypeAlias = NDArray[np.float32]
"""Linear light with sRGB's primaries; 1 is white, lamps are brighter."""

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def to_linear(encoded: NDArray[np.uint8]) -> Linear:
    """SRGB in 8 bits to linear light."""
    return np.asarray(_table()[encoded], np.float32)


def to_srgb(linear: Linear) -> NDArray[np.float32]:
    """Linear light in [0, 1] to sRGB in [0, 255], not rounded."""
    clipped = np.clip(linear, 0, 1)
    curve = np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * np.power(clipped, 1 / 2.4) - 0.055)
    return np.asarray(curve * 255, np.float32)


def linear_of(colour: str) -> Linear:
    """`#rrggbb` in linear light, (3,)."""
    return to_linear(np.frombuffer(bytes.fromhex(colour[1:]), np.uint8))


def colour_of_temperature(kelvin: float) -> Linear:
    """The colour of a black body as seen by a camera balanced for 6500 K; linear, of luminance 1, (3,).

    Source: T. Helland's fit to M. Charity's black-body table, 2012.
    """
    t = kelvin / 100
    if t <= 66:
        red = 255.0
        green = 99.4708025861 * np.log(t) - 161.1195681661
        blue = 0.0 if t <= 19 else 138.5177312231 * np.log(t - 10) - 305.0447927307
    else:
        red = 329.698727446 * (t - 60) ** -0.1332047592
        green = 288.1221695283 * (t - 60) ** -0.0755148492
        blue = 255.0
    linear = to_linear(np.rint(np.clip([red, green, blue], 0, 255)).astype(np.uint8))
    return np.asarray(linear / (linear @ LUMA), np.float32)


def shoulder(linear: Linear, knee: float = 0.62) -> Linear:
    """Roll bright light off smoothly towards 1, as film does; what is darker than `knee` keeps its value."""
    over = np.maximum(linear - knee, 0)
    span = 1 - knee
    return np.asarray(np.minimum(linear, knee) + span * over / (over + span), np.float32)


@cache
def _table() -> Linear:
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)
