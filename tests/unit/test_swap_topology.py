"""The face's triangles form one whole surface."""

from collections import Counter
from itertools import combinations

import numpy as np

from services.swap.landmarks import FACE_OVAL, MESH_POINTS
from services.swap.topology import triangles


def edge_uses() -> Counter[tuple[int, ...]]:
    return Counter(edge for triangle in triangles() for edge in combinations(sorted(map(int, triangle)), 2))


def test_the_surface_is_a_disc_over_all_points() -> None:
    surface = triangles()
    assert np.array_equal(np.unique(surface), np.arange(MESH_POINTS))
    assert MESH_POINTS - len(edge_uses()) + len(surface) == 1


def test_its_only_border_is_the_face_oval() -> None:
    ring = {tuple(sorted(edge)) for edge in zip(FACE_OVAL, FACE_OVAL[1:] + FACE_OVAL[:1], strict=True)}
    uses = edge_uses()
    assert set(uses.values()) == {1, 2}
    assert {edge for edge, count in uses.items() if count == 1} == ring
