"""What of that which a detector found is painted anew, and in which order."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from shared.vision.boxes import Box, centre

Order = Literal["detector", "left_to_right", "right_to_left", "largest_first", "smallest_first"]

DOUBLED_IOU: Final = 0.7
"""Overlap from which two boxes are one and the same thing; ultralytics' own bound."""


class Found(NamedTuple):
    """What a detector found: a box in the picture's pixels, and the detector's confidence, 0 to 1."""

    box: Box
    score: float


class Left(NamedTuple):
    """What is left alone, and why."""

    found: Found
    why: str


class Choice(NamedTuple):
    """What is done, in this order, and what is not."""

    done: tuple[Found, ...]
    left: tuple[Left, ...]


def choose(found: Sequence[Found], width: int, height: int, drop_size: int, most: int, order: Order) -> Choice:
    """Choose and order, as FaceDetailer does, but for what it does not know: `most` and doubled boxes.

    Boxes are cut at the picture's borders first. What is not wider and higher than `drop_size` is left alone, then what
    overlaps one before it by DOUBLED_IOU, then all but the `most` largest.

    Args:
        found: in the detector's order, the best first.
        width: of the picture in pixels.
        height: likewise.
        drop_size: pixels.
        most: how many at most; of equal ones those found first.
        order: of what is done; by the boxes' middles or areas, of equal ones those found first come first.
    """
    kept: list[Found] = []
    left: list[Left] = []
    for box, score in found:
        one = Found(clipped(box, width, height), score)
        if min(one.box[2:]) <= drop_size:
            left.append(Left(one, "drop_size"))
        elif any(overlap(one.box, other.box) >= DOUBLED_IOU for other in kept):
            left.append(Left(one, "doubled"))
        else:
            kept.append(one)
    largest = sorted(range(len(kept)), key=lambda number: (-area(kept[number].box), number))[:most]
    left += [Left(one, "most") for number, one in enumerate(kept) if number not in largest]
    return Choice(ordered([kept[number] for number in sorted(largest)], order), tuple(left))


def ordered(found: Sequence[Found], order: Order) -> tuple[Found, ...]:
    """In the order in which they are done; equal ones stay as they are."""
    match order:
        case "detector":
            return tuple(found)
        case "left_to_right" | "right_to_left":
            sign = 1 if order == "left_to_right" else -1
            return tuple(sorted(found, key=lambda one: sign * centre(one.box)[0]))
        case "largest_first" | "smallest_first":
            sign = 1 if order == "smallest_first" else -1
            return tuple(sorted(found, key=lambda one: sign * area(one.box)))


def clipped(box: Box, width: int, height: int) -> Box:
    """What of a box lies in the picture; a box of no width or height where nothing does."""
    left, right = (min(max(edge, 0.0), float(width)) for edge in (box[0], box[0] + box[2]))
    top, bottom = (min(max(edge, 0.0), float(height)) for edge in (box[1], box[1] + box[3]))
    return left, top, right - left, bottom - top


def area(box: Box) -> float:
    """In square pixels."""
    return box[2] * box[3]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (area(one) + area(other) - wide * high)
