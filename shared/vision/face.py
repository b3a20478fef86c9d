"""A face that was found in a picture. Imports no engine, so whoever only handles faces needs none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.vision.boxes import Box


@dataclass(frozen=True)
class Face:
    """One face. Pixels of the picture it was found in."""

    box: Box
    """x, y, width, height of the mesh: cheek to cheek, forehead to chin."""
    mesh: NDArray[np.float32]
    """(478, 2) in MediaPipe's order; the last ten are the irises, middles at 468 (picture's left) and 473."""
    mesh_depth: NDArray[np.float32]
    """(478,) in the same unit, growing away from the camera."""
    yaw: float
    """Degrees, positive: turned to the picture's right."""
    pitch: float
    """Degrees, positive: looking up."""
    roll: float
    """Degrees, positive: clockwise in the picture."""
    score: float
    """The detector's confidence, 0.68 to 1."""

    @property
    def eyes(self) -> NDArray[np.float64]:
        """(2, 2): the middles of the eyes' corners, the picture's left eye first."""
        corners = self.mesh[[[33, 133], [362, 263]]].astype(np.float64)
        return np.asarray(corners.mean(axis=1))
