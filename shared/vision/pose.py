"""How a head is turned, from its face mesh."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RIGHTWARD = ((33, 263), (133, 362), (61, 291), (234, 454))
"""Pairs of points that mirror each other: outer and inner eye corners, mouth corners, temples; picture's left first."""

_FOREHEAD, _CHIN = 10, 152


class Pose(NamedTuple):
    """Degrees. Yaw positive: turned to the picture's right; pitch positive: looking up; roll positive: clockwise."""

    yaw: float
    pitch: float
    roll: float


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def head_pose(mesh: NDArray[np.float32], depth: NDArray[np.float32]) -> Pose:
    """Read the head's frame off the mesh.

    The head's sideways axis is the mean direction of four mirror-symmetric landmark pairs, its downward axis the line
    from forehead to chin made orthogonal to it (Gram-Schmidt); their cross product looks out of the face. In
    MediaPipe's canonical face model these two lines are perpendicular, and parallel to the face's plane to within one
    degree.

    Args:
        mesh: (N, 2) pixels, x to the right, y down, in MediaPipe's order of landmarks.
        depth: (N,) in the same unit, growing away from the camera.
    """
    points = np.column_stack([mesh, depth]).astype(np.float64)
    right = _unit(np.sum([_unit(points[b] - points[a]) for a, b in _RIGHTWARD], axis=0))
    down = points[_CHIN] - points[_FOREHEAD]
    down = _unit(down - np.dot(down, right) * right)
    gaze = -np.cross(right, down)
    return Pose(
        yaw=float(np.degrees(np.arctan2(gaze[0], -gaze[2]))),
        pitch=float(np.degrees(np.arcsin(np.clip(-gaze[1], -1.0, 1.0)))),
        roll=float(np.degrees(np.arctan2(right[1], right[0]))),
    )
