"""Bringing a changed patch back into a picture without a trace: masks, regions, Lab colour, seamless correction."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.codec import Image

Mask: TypeAlias = NDArray[np.float32]
"""Opacity of a patch, 0 to 1, shape (height, width)."""

Points: TypeAlias = NDArray[np.float32]
"""Points in pixels, x before y, shape (count, 2)."""

Lab: TypeAlias = NDArray[np.float32]
"""CIE L*a*b* (D65): L 0 to 100, a and b about -127 to 127, shape (height, width, 3)."""

_LEAST_SPREAD = 0.5
_NEUTRAL = 2.0
"""Chroma below which a colour has no hue worth turning."""


@dataclass(frozen=True)
class Region:
    """A rectangle of whole pixels inside a picture; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, points: Points, margin_px: float, image: Image) -> "Region":
        """The smallest region that holds the points and a margin, cut at the picture's borders."""
        height, width = image.shape[:2]
        left, top = np.floor(points.min(axis=0) - margin_px).astype(int)
        right, bottom = np.ceil(points.max(axis=0) + margin_px).astype(int) + 1
        return cls(
            *(int(value) for value in np.clip((left, top), 0, (width, height))),
            *(int(value) for value in np.clip((right, bottom), 0, (width, height))),
        )

    @property
    def empty(self) -> bool:
        """Whether no pixel of the picture lies inside."""
        return self.right <= self.left or self.bottom <= self.top

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def origin(self) -> Points:
        """The upper left corner, x before y."""
        return np.array((self.left, self.top), np.float32)

    def of(self, image: Image) -> Image:
        """The region's pixels, as a view."""
        return image[self.top : self.bottom, self.left : self.right]


def polygon_mask(size: tuple[int, int], polygon: Points) -> NDArray[np.uint8]:
    """1 inside the polygon, 0 outside, for a picture of that height and width."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon * 16).astype(np.int32)], (1.0,), shift=4)
    return mask


def feather(inside: NDArray[np.uint8], inset_px: float, width_px: float) -> Mask:
    """Opacity that is 0 up to `inset_px` within the shape and rises smoothly to 1 over the next `width_px`.

    Nothing outside the shape is ever touched. Where the shape is cut by the picture's border it stays opaque.
    """
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip((distance - inset_px) / max(width_px, 1.0), 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), np.float32)


def to_lab(image: Image) -> Lab:
    """RGB to Lab, unrounded."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab), np.float32)


def from_lab(lab: Lab) -> Image:
    """Lab to RGB; what falls outside sRGB is clipped."""
    rgb = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(np.rint(rgb * 255), 0, 255), np.uint8)


def lay_over(base: Image, patch: Image, mask: Mask) -> Image:
    """Mix a patch into a picture of the same size. Where the mask is 0 the picture's own bytes stand."""
    share = mask[..., None]
    mixed = base + share * (patch.astype(np.float32) - base)
    return np.asarray(np.rint(mixed), np.uint8)


def place(image: Image, region: Region, patch: Image) -> Image:
    """A copy of the picture with the patch in the region."""
    placed = image.copy()
    region.of(placed)[:] = patch
    return placed


def match_colour(source: Lab, target: Lab, weights: Mask, strength: float) -> Lab:
    """Give the source the target's colour, measured where `weights` > 0.5.

    Lightness takes the target's median and, within 15 %, its spread: shape and expression are also written in light
    and dark. Chroma (a, b) is turned and stretched as one vector, so that white highlights and grey teeth stay neutral;
    what a stretch within a factor of 1.6 cannot reach is added.

    Source: Reinhard et al., "Color Transfer between Images", 2001, with the median and the median absolute deviation in
    place of mean and standard deviation, so that a strand of hair or a highlight does not count.
    """
    counted = weights > 0.5
    if not counted.any():
        return source
    have, want = source[counted], target[counted]
    centre, aim = np.median(have, axis=0), np.median(want, axis=0)
    spread = np.median(np.abs(have[:, 0] - centre[0])) + _LEAST_SPREAD
    wanted = np.median(np.abs(want[:, 0] - aim[0])) + _LEAST_SPREAD
    light = aim[0] + (source[..., 0] - centre[0]) * np.clip(wanted / spread, 0.85, 1.15)
    turn = _chroma_turn(complex(*centre[1:]), complex(*aim[1:]))
    chroma = (source[..., 1] + 1j * source[..., 2]) * turn
    chroma += complex(*aim[1:]) - complex(*centre[1:]) * turn
    matched = np.stack((light, chroma.real, chroma.imag), axis=-1)
    return np.asarray(source + strength * (matched - source), np.float32)


def _chroma_turn(centre: complex, aim: complex) -> complex:
    """The complex factor that brings one mean chroma near another, its modulus within a factor of 1.6."""
    if abs(centre) < _NEUTRAL or abs(aim) < _NEUTRAL:
        return 1 + 0j
    turn = aim / centre
    return turn / abs(turn) * min(max(abs(turn), 1 / 1.6), 1.6)


def membrane(values: Lab, weights: Mask) -> Lab:
    """Fill a picture smoothly from the pixels whose weight is above 0; those far from any take a broad mean.

    Source: the pull-push algorithm of Gortler et al., "The Lumigraph", 1996. As a correction spread inwards from a
    patch's rim it stands in for the harmonic membrane of Poisson cloning (Farbman et al., "Coordinates for Instant
    Image Cloning", 2009), in linear time and without any change outside the patch.
    """
    known = values * weights[..., None]
    if min(weights.shape) <= 2:
        total = np.maximum(weights.sum(), 1e-6)
        mean = known.sum(axis=(0, 1)) / total
        return np.broadcast_to(mean, values.shape).astype(np.float32)
    small_weights = cv2.pyrDown(weights)
    small = cv2.pyrDown(known) / np.maximum(small_weights, 1e-6)[..., None]
    height, width = weights.shape
    filled = cv2.pyrUp(membrane(small, np.minimum(small_weights * 4, 1)), dstsize=(width, height))
    share = np.minimum(weights, 1)[..., None]
    return np.asarray(filled + share * (values - filled), np.float32)


def settle(source: Lab, target: Lab, mask: Mask, limit: float) -> Lab:
    """Correct the source so that it meets the target along the mask's rim, the correction fading inwards.

    Args:
        source: the patch to be laid in.
        target: what it is laid over.
        mask: its opacity; the rim is where it lies between 0 and one half.
        limit: the largest correction in Lab units; keeps hair over the rim from bleeding into the face.
    """
    rim = np.asarray((mask > 0) & (mask < 0.5), np.float32)
    if not rim.any():
        return source
    gap = np.clip(target - source, -limit, limit)
    return np.asarray(source + membrane(gap, rim), np.float32)
