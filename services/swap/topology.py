"""The triangles of MediaPipe's face mesh, whose wheel carries only their edges."""

from collections import Counter
from itertools import combinations

import numpy as np
from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

from services.swap.landmarks import EYES, MOUTH
from shared.vision.warp import Triangles

_Triangle = tuple[int, int, int]


def triangles() -> Triangles:
    """All 898 triangles of the face's surface, the openings of eyes and mouth closed, shape (898, 3)."""
    openings = [triangle for ring in (MOUTH, *EYES) for triangle in _fill(ring)]
    return np.array([*_surface(), *openings], np.int32)


def _surface() -> list[_Triangle]:
    """The three-cycles of the edges, without the two that only surround a point: all their edges serve two others."""
    edges = {(min(edge), max(edge)) for edge in FACEMESH_TESSELATION}
    after: dict[int, set[int]] = {}
    for low, high in edges:
        after.setdefault(low, set()).add(high)
    cycles = [(low, mid, high) for low, mid in edges for high in after[low] & after.get(mid, set())]
    uses = Counter(edge for cycle in cycles for edge in combinations(cycle, 2))
    return sorted(cycle for cycle in cycles if any(uses[edge] < 3 for edge in combinations(cycle, 2)))


def _fill(ring: tuple[int, ...]) -> list[_Triangle]:
    """Zip the upper edge of an opening to its lower edge."""
    half = len(ring) // 2
    upper = ring[: half + 1]
    lower = (ring[0], *reversed(ring[half + 1 :]), ring[half])
    quads = zip(upper, upper[1:], lower, lower[1:], strict=False)
    halves = [triangle for a, b, c, d in quads for triangle in ((a, b, d), (a, d, c))]
    return [triangle for triangle in halves if len(set(triangle)) == 3]
