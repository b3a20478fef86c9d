"""Which part of the picture is cut out around a box, and how large it is painted.

Source: ComfyUI Impact Pack, FaceDetailer. What it leaves to the autoencoder, the size that FLUX can paint, is decided
here: both sides are the nearest multiples of 16 pixels. ComfyUI cuts a crop of another size to multiples of 8 before it
is encoded and stretches what it decodes over the whole crop, which moves its edges by up to 4 pixels; here the
whole crop is scaled to the size that is painted, and back by the inverse, so nothing is cut off and nothing moves.
"""

from typing import Final, NamedTuple, Protocol

from shared.vision.blend import Region
from shared.vision.boxes import Box, centre

MULTIPLE_PX: Final = 16
"""Of which FLUX's pictures are multiples: one of its tokens."""

LARGEST_PX: Final = 2048
"""Longest side that FLUX is let paint: beyond it repeats things, and its memory runs out."""


class Size(NamedTuple):
    """In pixels, both multiples of 16."""

    width: int
    height: int


class Sizing(Protocol):
    """The parameters that decide on a size (services.swap.stage.DetailParams)."""

    @property
    def guide_size(self) -> int:
        """Pixels that the shorter side is brought to."""

    @property
    def guide_size_for(self) -> str:
        """Whose shorter side: `bbox` or `crop`."""

    @property
    def max_size(self) -> int:
        """Pixels beyond which no side is enlarged."""

    @property
    def force_inpaint(self) -> bool:
        """Whether what needs no enlarging is painted all the same."""


def crop_region(box: Box, factor: float, width: int, height: int) -> Region:
    """The box `factor` times as large about its middle, in whole pixels.

    Where it would reach beyond the picture it is shifted inwards, and where it is larger than the picture cut off.

    Args:
        box: within the picture, at least a pixel wide and high.
        factor: at least 1.
        width: of the picture in pixels.
        height: likewise.
    """
    x, y = centre(box)
    left, right = _along(x, box[2] * factor, width)
    top, bottom = _along(y, box[3] * factor, height)
    return Region(left, top, right, bottom)


def painted_size(box: Box, region: Region, how: Sizing) -> Size | str:
    """How large a crop is painted, or why it is left alone.

    The box's shorter side (or the crop's) is brought to `guide_size`, but neither side of the crop beyond `max_size`.
    What is large enough already is painted as large as it is where `force_inpaint` says so, else left alone.

    Returns:
        The size; or "large_enough", or "too_large" where the crop itself is larger than LARGEST_PX.
    """
    height, width = region.size
    if not how.force_inpaint and min(box[2:]) >= how.guide_size:
        return "large_enough"
    up = how.guide_size / (min(box[2:]) if how.guide_size_for == "bbox" else min(width, height))
    longer = max(int(width * up), int(height * up))
    if longer > how.max_size:
        up *= how.max_size / longer
    if up <= 1.0:
        if not how.force_inpaint:
            return "large_enough"
        if max(width, height) > LARGEST_PX:
            return "too_large"
        up = 1.0
    return Size(_multiple(int(width * up)), _multiple(int(height * up)))


def overlapping(one: Region, other: Region) -> bool:
    """Whether two regions share a pixel."""
    across = one.left < other.right and other.left < one.right
    return across and one.top < other.bottom and other.top < one.bottom


def _along(middle: float, length: float, limit: int) -> tuple[int, int]:
    """Where it begins and ends along one side of the picture."""
    start = int(middle - length / 2)
    if start < 0:
        return 0, int(min(limit, length))
    if start + length > limit:
        return int(max(0, limit - length)), limit
    return start, int(start + length)


def _multiple(pixels: int) -> int:
    """The nearest that FLUX can paint."""
    return max(MULTIPLE_PX, round(pixels / MULTIPLE_PX) * MULTIPLE_PX)
