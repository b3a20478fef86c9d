"""Film grain."""

import numpy as np

from shared.vision.filters import Plane, gaussian


def add_grain(light: Plane, deviation: float, size_px: float, seed: int) -> Plane:
    """Lay grain over lightness (L*, 0 to 100).

    Strongest in the middle tones and gone in black and white, as in a print: developed grains scatter light by their
    count, which at either end is none or all of them (the binomial model of Newson et al., "Realistic Film Grain
    Rendering", 2017).

    Args:
        light: the picture's lightness.
        deviation: standard deviation at middle grey, in L*.
        size_px: softness of a grain, sigma in pixels; the deviation stays the same.
        seed: of the PCG64 generator.
    """
    if deviation == 0:
        return light
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(light.shape, np.float32)
    soft = gaussian(noise, size_px)
    soft /= max(float(soft.std()), 1e-6)
    share = np.clip(light / np.float32(100), 0, 1)
    return np.asarray(light + deviation * soft * np.sqrt(4 * share * (1 - share)), np.float32)
