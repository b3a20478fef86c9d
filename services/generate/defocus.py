"""Defocus as a lens makes it: each point becomes a disc, in linear light."""

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.colour import Linear
from shared.contracts.scene import Lens

_SENSOR_MM = 36.0
_SUPERSAMPLING = 8


def blur_share(lens: Lens, depth_m: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The diameter of the disc that a point at some depth becomes, as a share of the picture's width.

    Source: the thin lens; S. Ray, "Applied Photographic Optics", circle of confusion.
    """
    depth = np.asarray(depth_m, np.float64)
    focus_mm = lens.focus_m * 1000
    aperture_mm = lens.focal_mm / lens.f_number
    magnification = lens.focal_mm / (focus_mm - lens.focal_mm)
    return np.asarray(aperture_mm * magnification * np.abs(1 - lens.focus_m / depth) / _SENSOR_MM)


def disc_blur(picture: Linear, diameter_px: float) -> Linear:
    """Spread each pixel over a disc. Discs smaller than a pixel leave the picture as it is."""
    if diameter_px < 1.2:
        return picture
    return np.asarray(cv2.filter2D(picture, -1, _disc(diameter_px), borderType=cv2.BORDER_REPLICATE), np.float32)


def disc_blur_by_map(picture: Linear, diameter_px: NDArray[np.float64], levels: int = 5) -> Linear:
    """Spread each pixel over a disc of its own size, for a picture whose depth changes smoothly.

    Blends between a few pictures, each blurred all over.
    """
    low, high = float(diameter_px.min()), float(diameter_px.max())
    if high - low < 1:
        return disc_blur(picture, (low + high) / 2)
    steps = np.linspace(low, high, levels)
    position = (diameter_px - low) / (high - low) * (levels - 1)
    total = np.zeros_like(picture)
    for number, size in enumerate(steps):
        weight = np.clip(1 - np.abs(position - number), 0, 1).astype(np.float32)
        if weight.any():
            total += disc_blur(picture, float(size)) * weight[..., None]
    return total


def _disc(diameter: float) -> NDArray[np.float32]:
    """A disc of fractional diameter, its edge antialiased and a little brighter, as real lenses draw it."""
    radius = diameter / 2
    half = int(np.ceil(radius))
    side = (2 * half + 1) * _SUPERSAMPLING
    axis = (np.arange(side) + 0.5) / _SUPERSAMPLING - (half + 0.5)
    distance = np.hypot(axis[:, None], axis[None, :])
    fine = (distance <= radius) * (0.85 + 0.3 * (distance / radius) ** 4)
    disc = fine.reshape(2 * half + 1, _SUPERSAMPLING, -1, _SUPERSAMPLING).mean(axis=(1, 3))
    return np.asarray(disc / disc.sum(), np.float32)
