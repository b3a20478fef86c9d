"""A small picture of one thing, drawn in linear light with opacity and with what shines by itself."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from services.generate.colour import Linear

_LONG_SIDE = 192
_SUBPIXEL_BITS = 6
_SUBPIXELS = 1 << _SUBPIXEL_BITS


class Texture:
    """Draws shapes. Coordinates run from 0 to 1: to the right, and down from the top."""

    def __init__(self, aspect: float) -> None:
        self.columns = max(8, round(_LONG_SIDE * min(1.0, aspect)))
        self.rows = max(8, round(_LONG_SIDE * min(1.0, 1 / aspect)))
        self.colour: Linear = np.zeros((self.rows, self.columns, 3), np.float32)
        self.alpha: NDArray[np.float32] = np.zeros((self.rows, self.columns), np.float32)
        self.glow: NDArray[np.float32] = np.zeros((self.rows, self.columns), np.float32)

    def gradient(self, top: Linear, bottom: Linear, glow: float = 0.0) -> None:
        """Fill all of it, from one colour above to another below."""
        share = np.linspace(0, 1, self.rows, dtype=np.float32)[:, None, None]
        self.colour[:] = top * (1 - share) + bottom * share
        self.alpha[:] = 1
        self.glow[:] = glow

    def rectangle(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        colour: Linear,
        glow: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """An upright rectangle, or as much of it as lies inside; at least one pixel wide and high."""
        rows, columns = self.alpha.shape
        y0, x0 = min(max(round(top * rows), 0), rows), min(max(round(left * columns), 0), columns)
        y1, x1 = max(y0 + 1, min(round(bottom * rows), rows)), max(x0 + 1, min(round(right * columns), columns))
        self._fill((slice(y0, y1), slice(x0, x1)), colour, glow, alpha)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Linear, glow: float = 0.0) -> None:
        """An ellipse by its centre and its two radii."""
        rows, columns = self.alpha.shape
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self._polygon(
            np.stack([(x + across * np.cos(turn)) * columns, (y + down * np.sin(turn)) * rows], 1), colour, glow
        )

    def polygon(self, corners: Sequence[tuple[float, float]], colour: Linear, glow: float = 0.0) -> None:
        """A filled polygon."""
        self._polygon(np.array(corners, np.float64) * [self.columns, self.rows], colour, glow)

    def shade(self, factor: NDArray[np.float32]) -> None:
        """Multiply the colours by a field that broadcasts to (H, W)."""
        self.colour *= np.broadcast_to(factor, self.alpha.shape)[..., None]

    def _polygon(self, corners: NDArray[np.float64], colour: Linear, glow: float) -> None:
        mask = np.zeros(self.alpha.shape, np.uint8)
        fixed = np.rint(corners * _SUBPIXELS).astype(np.int32)
        cv2.fillPoly(mask, [fixed], (1,), shift=_SUBPIXEL_BITS)
        self._fill(mask > 0, colour, glow, 1.0)

    def _fill(self, where: NDArray[np.bool_] | tuple[slice, slice], colour: Linear, glow: float, alpha: float) -> None:
        self.colour[where] = self.colour[where] * (1 - alpha) + colour * alpha
        self.alpha[where] = self.alpha[where] * (1 - alpha) + alpha
        self.glow[where] = glow
