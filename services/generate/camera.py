"""A pinhole camera that looks level into the scene, and the light that falls on surfaces."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.generate.colour import Linear, colour_of_temperature
from shared.contracts.scene import Lens, Light

_SENSOR_MM = 36.0


@dataclass(frozen=True)
class Camera:
    """Where metres in the scene lie in the picture."""

    lens: Lens
    rows: int
    columns: int
    width_px: float
    """What the sensor's 36 mm cover; the canvas is larger by a margin."""
    horizon_px: float
    shift_m: float
    """How far the camera stands to the right of the line of sight."""

    @property
    def scale(self) -> float:
        """Pixels that one metre covers at one metre's distance."""
        return self.lens.focal_mm / _SENSOR_MM * self.width_px

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Places (N, 3) in metres to pixels (N, 2)."""
        depth = np.maximum(points[:, 2], 0.2)
        across = self.columns / 2 + (points[:, 0] - self.shift_m) * self.scale / depth
        down = self.horizon_px - (points[:, 1] - self.lens.height_m) * self.scale / depth
        return np.asarray(np.stack([across, down], axis=1), np.float32)

    def rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far each pixel's ray moves to the right (1, W) and up (H, 1) in metres while it goes one metre deep."""
        across = (np.arange(self.columns) + 0.5 - self.columns / 2) / self.scale
        up = (self.horizon_px - np.arange(self.rows) - 0.5) / self.scale
        return across[None, :], up[:, None]


def direction_to_light(light: Light) -> NDArray[np.float64]:
    """The unit vector from the scene to the key light: x right, y up, z away from the camera."""
    azimuth, elevation = np.deg2rad(light.azimuth_deg), np.deg2rad(light.elevation_deg)
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)], np.float64
    )


def light_on(light: Light, normal: tuple[float, float, float]) -> Linear:
    """The light a surface of that normal gets, (3,): ambient from everywhere and the key, which rooms soften."""
    facing = max(0.0, float(direction_to_light(light) @ np.array(normal)))
    key = light.key * (0.3 + 0.7 * facing) * colour_of_temperature(light.kelvin)
    return np.asarray(key + light.ambient * colour_of_temperature(light.ambient_kelvin), np.float32)
