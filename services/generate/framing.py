"""Where the person stands in the frame: as asked for, moved as little as hides the photo's cut edges."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contracts.scene import Framing
from shared.vision.boxes import Box

_SHARES = np.linspace(0.156, 0.244, 23)
"""Inside the rule's 15 to 25 %: the finished face is measured anew, and never quite the same."""
_CENTRES_X = np.linspace(0.36, 0.64, 29)
_CENTRES_Y = np.linspace(0.2, 0.48, 29)
_HEADROOM = 0.035
_CUT_COST = 10.0
_TOP_CUT_COST = 30.0
_OPAQUE = 0.25


@dataclass(frozen=True)
class Cuts:
    """Where the photo's border cuts the person: along each border, from and to, in pixels; None where it does not."""

    left: tuple[int, int] | None
    right: tuple[int, int] | None
    top: tuple[int, int] | None
    bottom: tuple[int, int] | None


@dataclass(frozen=True)
class Placement:
    """The photo's place in the frame: `scale` frame pixels per photo pixel, its upper left corner at (x, y)."""

    scale: float
    x: float
    y: float
    face_width: float
    """Share of the frame's width."""
    centre_x: float
    centre_y: float

    def beyond(self, photo: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int, int]:
        """Photo pixels lacking at the left, the right and the bottom to fill the frame (sizes: width, height)."""
        left = max(0.0, self.x) / self.scale
        right = max(0.0, frame[0] - self.x - photo[0] * self.scale) / self.scale
        bottom = max(0.0, frame[1] - self.y - photo[1] * self.scale) / self.scale
        return int(np.ceil(left)), int(np.ceil(right)), int(np.ceil(bottom))

    def moved(self, columns: int) -> "Placement":
        """The same place for a photo that got so many columns more at its left."""
        return replace(self, x=self.x - columns * self.scale)

    def lay(self, picture: NDArray[np.float32], width: int, height: int, interpolation: int) -> NDArray[np.float32]:
        """A picture in photo pixels, as it lies in the frame. Beyond its borders: zero."""
        warp = np.array(
            [[self.scale, 0, self.x + self.scale / 2 - 0.5], [0, self.scale, self.y + self.scale / 2 - 0.5]]
        )
        return np.asarray(cv2.warpAffine(picture, warp, (width, height), flags=interpolation), np.float32)


def cuts(alpha: NDArray[np.float32]) -> Cuts:
    """Find where the photo's border cuts the person."""
    return Cuts(_run(alpha[:, 0]), _run(alpha[:, -1]), _run(alpha[0]), _run(alpha[-1]))


def place(alpha: NDArray[np.float32], face: Box, wish: Framing, width: int, height: int) -> Placement:
    """Choose size and position of the face.

    Every combination within the allowed band is weighed: how far it is from the wish, how much of the photo's cuts
    it leaves visible, and whether the hair keeps some room above.

    Args:
        alpha: of the person in the photo, (H, W).
        face: in the photo's pixels.
        wish: the framing asked for.
        width: of the frame, pixels.
        height: of the frame, pixels.
    """
    found = cuts(alpha)
    rows, columns = alpha.shape
    x, y, face_px, tall = face
    fx, fy = x + face_px / 2, y + tall / 2
    share, cx, cy = (
        np.array(values)
        for values in np.meshgrid(
            _with(_SHARES, float(np.clip(wish.face_width, _SHARES[0], _SHARES[-1]))),
            _with(_CENTRES_X, wish.centre_x),
            _with(_CENTRES_Y, wish.centre_y),
            indexing="ij",
        )
    )
    scale = share * width / face_px
    left, top = cx * width - fx * scale, cy * height - fy * scale
    cost = (np.abs(share - wish.face_width) / 0.05) ** 1.5 + (np.abs(cx - wish.centre_x) / 0.08) ** 1.5
    cost += (np.abs(cy - wish.centre_y) / 0.07) ** 1.5
    low = np.clip((height - top - rows * scale) / height, 0, 1)
    if found.bottom:
        cost += _CUT_COST * (low + 0.1 * (low > 0))
    for border, gap in ((found.left, left), (found.right, width - left - columns * scale)):
        if border:
            first = np.maximum(top + border[0] * scale, 0)
            seen = np.clip((np.minimum(top + border[1] * scale, height) - first) / height, 0, 1)
            cost += np.where(gap > 0, _CUT_COST * (seen + 0.1 * (seen > 0)), 0)
    if found.top:
        cost += np.where(top > 0, _TOP_CUT_COST * (0.2 + top / height), 0)
    else:
        hair = int(np.argmax((alpha > _OPAQUE).any(axis=1)))
        cost += _CUT_COST * np.clip(_HEADROOM - (top + hair * scale) / height, 0, 1) / _HEADROOM
    best = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return Placement(
        float(scale[best]), float(left[best]), float(top[best]), float(share[best]), float(cx[best]), float(cy[best])
    )


def _with(values: NDArray[np.float64], wished: float) -> NDArray[np.float64]:
    return np.asarray(np.unique(np.append(values, wished)), np.float64)


def _run(line: NDArray[np.float32]) -> tuple[int, int] | None:
    hits = np.nonzero(line > _OPAQUE)[0]
    return (int(hits[0]), int(hits[-1]) + 1) if len(hits) > 2 else None
