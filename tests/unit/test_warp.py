"""A mesh warp is exact, continuous, and shows what lies in front."""

import cv2
import numpy as np
import pytest

from shared.vision.blend import Points
from shared.vision.warp import Triangles, far_to_near, piecewise_affine, sample, signed_areas
from tests.pictures import astronaut

SIZE = (120, 120)


def grid(step: int = 20, low: int = 10, high: int = 110) -> tuple[Points, Triangles]:
    """A square of points and its triangles, two a cell."""
    along = np.arange(low, high + 1, step)
    count = len(along)
    points = np.array([(x, y) for y in along for x in along], np.float32)
    cells = [row * count + column for row in range(count - 1) for column in range(count - 1)]
    corners = [((c, c + 1, c + count), (c + 1, c + count + 1, c + count)) for c in cells]
    return points, np.array([triangle for pair in corners for triangle in pair], np.int32)


def test_a_mesh_that_does_not_move_gives_the_pictures_own_bytes() -> None:
    points, triangles = grid()
    image = astronaut()[:120, :120]
    warp = piecewise_affine(points, points, triangles, SIZE)
    inside = warp.inside > 0
    assert np.array_equal(sample(image, warp, shrink=1.0)[inside], image[inside])
    assert inside[10:110, 10:110].all()
    assert not inside[:9].any()


def test_an_affine_move_is_followed_exactly_everywhere() -> None:
    points, triangles = grid()
    linear, shift = np.array([(0.9, 0.2), (-0.15, 1.1)]), np.array((7.0, -3.0))
    warp = piecewise_affine((points @ linear.T + shift).astype(np.float32), points, triangles, SIZE)
    rows, columns = np.nonzero(warp.inside)
    expected = np.stack((columns, rows), axis=1) @ linear.T + shift
    assert np.allclose(warp.source[rows, columns], expected, atol=1e-3)


def test_no_seam_shows_where_triangles_meet() -> None:
    points, triangles = grid()
    bent = points + np.random.Generator(np.random.PCG64(5)).normal(0, 3, points.shape).astype(np.float32)
    warp = piecewise_affine(bent, points, triangles, SIZE)
    inner = warp.source[12:108, 12:108]
    steps = max(np.abs(np.diff(inner, axis=axis)).max() for axis in (0, 1))
    slopes = (
        np.abs(np.diff(bent.reshape(6, 6, 2), axis=1)).max() / 20,
        np.abs(np.diff(bent.reshape(6, 6, 2), axis=0)).max() / 20,
    )
    assert steps < 2 * max(slopes)


def test_the_nearer_triangle_hides_the_farther() -> None:
    points = np.array([(10, 10), (110, 10), (10, 110), (20, 10), (100, 10), (20, 110)], np.float32)
    depth = np.array([0, 0, 0, 9, 9, 9], np.float32)
    triangles = np.array([(0, 1, 2), (3, 4, 5)], np.int32)
    order = far_to_near(depth, triangles)
    assert order.tolist() == [[3, 4, 5], [0, 1, 2]]
    owner = piecewise_affine(points, points, order, SIZE).owner
    assert owner[30, 30] == 1


def test_a_triangle_seen_from_behind_has_a_negative_area() -> None:
    points = np.array([(0, 0), (10, 0), (0, 10)], np.float32)
    areas = signed_areas(points, np.array([(0, 1, 2), (0, 2, 1)], np.int32))
    assert areas.tolist() == [50.0, -50.0]


def test_a_triangle_without_area_is_left_out_instead_of_failing() -> None:
    points = np.array([(10, 10), (60, 10), (110, 10)], np.float32)
    warp = piecewise_affine(points, points, np.array([(0, 1, 2)], np.int32), SIZE)
    assert not warp.inside.any()


def test_a_source_four_times_as_large_is_averaged_and_does_not_alias() -> None:
    checkered = np.indices((480, 480)).sum(axis=0) % 2 * 255
    image = np.repeat(checkered[..., None], 3, axis=2).astype(np.uint8)
    points, triangles = grid()
    warp = piecewise_affine(points * 4 + 1.5, points, triangles, SIZE)
    patch = sample(image, warp, shrink=4.0)[20:100, 20:100]
    assert patch.mean() == pytest.approx(127.5, abs=2)
    assert patch.std() < 3


def test_averaging_first_does_not_shift_the_picture() -> None:
    image = astronaut()
    points, triangles = grid()
    warp = piecewise_affine(points * 4 + 1.5, points, triangles, SIZE)
    patch = sample(image, warp, shrink=4.0).astype(np.float64)
    reduced = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)[:120, :120]
    assert np.abs(patch - reduced)[20:100, 20:100].mean() < 1.0
