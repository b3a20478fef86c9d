"""Where a photo is cut to show one person's head and shoulders, and nobody else's face as far as that goes."""

from collections.abc import Sequence
from typing import NamedTuple

from shared.vision.boxes import Box, centre

_WIDE, _ABOVE, _BELOW = 5.0, 1.75, 4.0
"""Head and shoulders, in face widths: across, and up and down from the face's middle."""

LEAST_SIDE = 256
"""In pixels. Smaller pictures are enlarged by the pipelines, or refused."""

_NEAREST = LEAST_SIDE / 4
"""In pixels: no cut comes nearer to the face's middle than this."""


class Cut(NamedTuple):
    """The edges of a part of a photo, in pixels; they may lie outside of it."""

    left: float
    top: float
    right: float
    bottom: float

    def shows(self, box: Box) -> bool:
        """Whether any of the box lies in it."""
        x, y, width, height = box
        return x < self.right and x + width > self.left and y < self.bottom and y + height > self.top


def head_and_shoulders(face: Box, others: Sequence[Box]) -> Cut:
    """The part of a photo to show of the person with this face.

    For each other face that lies in it, it ends half way between the two, on the side where they are farther apart. A
    face that lies over this one, or too near to it, stays: `shows` says so.
    """
    x, y = centre(face)
    width = face[2]
    aside = max(_WIDE * width, LEAST_SIDE) / 2
    above, below = max(_ABOVE * width, LEAST_SIDE / 2), max(_BELOW * width, LEAST_SIDE / 2)
    cut = Cut(x - aside, y - above, x + aside, y + below)
    for other in others:
        if cut.shows(other):
            cut = _ended(cut, face, other)
    return cut


def _ended(cut: Cut, face: Box, other: Box) -> Cut:
    left, top, width, height = face
    right, bottom = left + width, top + height
    their_right, their_bottom = other[0] + other[2], other[1] + other[3]
    gaps = {
        "left": left - their_right,
        "top": top - their_bottom,
        "right": other[0] - right,
        "bottom": other[1] - bottom,
    }
    side = max(gaps, key=lambda name: gaps[name])
    half = gaps[side] / 2
    if half < 0:
        return cut
    x, y = centre(face)
    ends = {
        "left": min(left - half, x - _NEAREST),
        "top": min(top - half, y - _NEAREST),
        "right": max(right + half, x + _NEAREST),
        "bottom": max(bottom + half, y + _NEAREST),
    }
    return cut._replace(**{side: ends[side]})
