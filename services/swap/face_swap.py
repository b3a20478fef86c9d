"""Lays one face over another: the mesh warped triangle by triangle, the colour matched, the rim settled."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from services.swap.landmarks import MESH_POINTS, MOUTH, SWAPPED
from services.swap.stage import FaceParams
from services.swap.topology import triangles
from shared.vision.blend import (
    Mask,
    Points,
    Region,
    feather,
    from_lab,
    lay_over,
    match_colour,
    place,
    polygon_mask,
    settle,
    to_lab,
)
from shared.vision.codec import Image
from shared.vision.face import Face
from shared.vision.warp import Triangles, far_to_near, piecewise_affine, sample, signed_areas

Flags: TypeAlias = NDArray[np.uint8]
"""1 or 0 a pixel, shape (height, width)."""

_SURFACE = triangles()
_LEAST_SOURCE_SHARE = 0.12
_OPEN = 0.06
_NARROW = 0.02
_LARGEST_CORRECTION_LAB = 12.0


def swap_face(image: Image, target: Face, photo: Image, source: Face, params: FaceParams) -> Image:
    """A copy of the picture in which the photo's face takes the place of the target, in the target's pose and light.

    The photo's face is brought onto the target's mesh by a piecewise affine warp, takes the target's skin tone
    (`match_colour`), meets the target's light along the rim (`settle`), and fades out before the face's outline.
    Nothing outside the target's face oval changes.
    """
    width = target.box[2]
    region = Region.around(target.mesh[:MESH_POINTS], 2.0, image)
    if region.empty:
        return image
    under = region.of(image)
    order = far_to_near(target.mesh_depth, _SURFACE)
    place_of = target.mesh - region.origin
    warp = piecewise_affine(source.mesh, place_of, order, region.size)
    patch = sample(photo, warp, shrink=source.box[2] / width)
    seen = warp.inside * seen_in_source(source.mesh, target.mesh, order)[warp.owner]
    mouth = polygon_mask(region.size, place_of[list(MOUTH)])
    kept = mouth if mouths_differ(source.mesh, target.mesh) else np.zeros_like(mouth)
    mask = opacity(place_of, seen, kept, params)
    under_lab = to_lab(under)
    matched = match_colour(to_lab(patch), under_lab, mask, params.colour_match)
    settled = settle(matched, under_lab, mask, _LARGEST_CORRECTION_LAB)
    return place(image, region, lay_over(under, from_lab(settled), mask * np.float32(params.strength)))


def seen_in_source(source: Points, target: Points, order: Triangles) -> NDArray[np.bool_]:
    """Which triangles the source shows well enough to fill the target's: same side forward, not shrunk to a sliver.

    Where it does not, on the far cheek of a turned head, the picture's own face stays.
    """
    have, want = signed_areas(source, order), signed_areas(target, order)
    scale = np.median(np.abs(have)) / max(float(np.median(np.abs(want))), 1e-6)
    return np.asarray(have * np.sign(want) > _LEAST_SOURCE_SHARE * scale * np.abs(want))


def mouths_differ(source: Points, target: Points) -> bool:
    """Whether one mouth is open and the other shut: then neither can be drawn with the other's teeth."""
    openings = sorted(opening(mesh) for mesh in (source, target))
    return openings[1] > _OPEN and openings[0] < 0.4 * openings[1]


def opening(mesh: Points) -> float:
    """Height of the mouth's opening over its width, from its area; 0 is shut, 0.2 shows the teeth."""
    ring = mesh[list(MOUTH)]
    across = float(np.linalg.norm(ring[0] - ring[len(ring) // 2]))
    return float(cv2.contourArea(ring)) / max(across * across, 1e-6)


def opacity(mesh: Points, seen: Flags, kept: Flags, params: FaceParams) -> Mask:
    """The new face's opacity: soft along the face's outline, with a narrow soft edge round what stays as it is.

    Args:
        mesh: the target's mesh in pixels of the patch.
        seen: 1 where the source shows what lies there.
        kept: 1 where the picture's own pixels stay, within the face.
        params: inset and feather, as shares of the face's width.
    """
    width = float(np.ptp(mesh[:MESH_POINTS, 0]))
    speck = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(0.012 * width) + 1,) * 2)
    shown = np.asarray(cv2.morphologyEx(seen, cv2.MORPH_CLOSE, speck), np.uint8)
    height, across = seen.shape
    outline = polygon_mask((height, across), mesh[list(SWAPPED)])
    soft = feather(outline, params.inset * width, params.feather * width)
    shown[kept > 0] = 0
    return np.minimum(soft, feather(shown, 0.0, _NARROW * width))
