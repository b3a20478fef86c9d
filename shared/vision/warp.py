"""Piecewise affine warps between two positions of one triangle mesh."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.blend import Points
from shared.vision.codec import Image

Triangles: TypeAlias = NDArray[np.int32]
"""Corner indices into a mesh's points, shape (count, 3)."""

_SUBPIXEL_BITS = 4
_SHRINK_FROM = 1.3
_LEAST_AREA_PX = 1e-3
_NO_SECOND_MAP = np.empty(0, np.float32)


@dataclass(frozen=True)
class WarpMap:
    """Where each pixel of a target patch comes from.

    Attributes:
        source: x and y in the source picture, float32, shape (height, width, 2); meaningful inside the mesh.
        owner: row of the triangle that is seen there, int32, shape (height, width); -1 outside the mesh.
    """

    source: NDArray[np.float32]
    owner: NDArray[np.int32]

    @property
    def inside(self) -> NDArray[np.uint8]:
        """1 where a triangle lies, 0 elsewhere."""
        return (self.owner >= 0).astype(np.uint8)


def signed_areas(points: Points, triangles: Triangles) -> NDArray[np.float32]:
    """Area of each triangle in square pixels; the sign turns when a triangle is seen from behind."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    cross = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return np.asarray(cross / 2, np.float32)


def far_to_near(depth: NDArray[np.float32], triangles: Triangles) -> Triangles:
    """The triangles in the painter's order: greatest mean depth (farthest from the camera) first."""
    return triangles[np.argsort(-depth[triangles].mean(axis=1), kind="stable")]


def piecewise_affine(source: Points, target: Points, triangles: Triangles, size: tuple[int, int]) -> WarpMap:
    """Map a target patch of that height and width back onto the source picture.

    Each pixel takes the affine map of the triangle it lies in; where triangles overlap the later one wins. Neighbouring
    maps agree along their common edge, so one lookup of the whole patch leaves no seam, and none to anti-alias.

    Args:
        source: mesh points in the source picture.
        target: the same points in the patch.
        triangles: their triangles, in the painter's order.
        size: height and width of the patch in pixels.
    """
    corners = np.rint(target[triangles] * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    drawn = np.abs(signed_areas(target, triangles)) > _LEAST_AREA_PX
    owner = np.full(size, -1, np.int32)
    for row in np.flatnonzero(drawn):
        cv2.fillConvexPoly(owner, corners[row], (int(row),), shift=_SUBPIXEL_BITS)
    affine = np.zeros((len(triangles), 2, 3))
    affine[drawn] = _affine_maps(source, target, triangles[drawn])
    rows, columns = np.nonzero(owner >= 0)
    pixels = np.stack((columns, rows, np.ones_like(rows)), axis=1).astype(np.float64)
    lookup = np.zeros((*size, 2), np.float32)
    lookup[rows, columns] = np.einsum("nij,nj->ni", affine[owner[rows, columns]], pixels)
    return WarpMap(lookup, owner)


def sample(image: Image, warp: WarpMap, shrink: float) -> Image:
    """Fetch the patch's pixels from the source picture, bicubically.

    Args:
        image: the source picture.
        warp: where each pixel comes from.
        shrink: how many source pixels fall on one target pixel, along a line; above 1 the source is averaged first
            so that nothing aliases.
    """
    lookup = warp.source
    if shrink > _SHRINK_FROM:
        height, width = image.shape[:2]
        small = (max(round(width / shrink), 1), max(round(height / shrink), 1))
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        ratio = np.array((small[0] / width, small[1] / height), np.float32)
        lookup = np.asarray((lookup + 0.5) * ratio - 0.5, np.float32)
    return np.asarray(
        cv2.remap(image, lookup, _NO_SECOND_MAP, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _affine_maps(source: Points, target: Points, triangles: Triangles) -> NDArray[np.float64]:
    corners = np.concatenate((target[triangles], np.ones((len(triangles), 3, 1))), axis=2)
    solved = np.linalg.solve(corners, source[triangles].astype(np.float64))
    return np.asarray(solved.transpose(0, 2, 1))
