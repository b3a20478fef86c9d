"""What is painted, crop by crop, before anything is: regions, sizes, masks, words, and what goes in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from services.swap.detailer.masks import box_mask
from services.swap.detailer.regions import Size, crop_region, overlapping, painted_size
from services.swap.detailer.segments import Choice, Found
from services.swap.stage import DetailParams
from shared.vision.blend import Mask, Region

SKIP: Final = "[SKIP]"
"""In place of a prompt: this one is left alone."""

STOP: Final = "[STOP]"
"""This one and all after it are."""


@dataclass(frozen=True, eq=False)
class Crop:
    """Something that was found and chosen.

    Attributes:
        number: its place in the order, from 0; its seed is the step's plus this.
        found: the box and the detector's confidence.
        region: what is cut out.
        size: what that is painted as; None where it is left alone.
        mask: of the region's size, 1 where it is to change; not softened. Without pixels where it was not needed.
        words: what it is to show.
        skipped: why it is left alone, or empty.
    """

    number: int
    found: Found
    region: Region
    size: Size | None
    mask: Mask
    words: str
    skipped: str


class Ready(NamedTuple):
    """A crop that is painted, and as large as what."""

    crop: Crop
    size: Size


def plan(choice: Choice, width: int, height: int, params: DetailParams) -> list[Crop]:
    """The crops of a picture of that size, in the order in which they are done; those left alone too."""
    crops: list[Crop] = []
    stopped = False
    for number, found in enumerate(choice.done):
        words = params.prompts[number].strip() if number < len(params.prompts) else params.prompt
        stopped = stopped or words == STOP
        region = crop_region(found.box, params.crop_factor, width, height)
        size = painted_size(found.box, region, params)
        mask = np.zeros((0, 0), np.float32)
        if stopped or words == SKIP:
            skipped = "prompt"
        elif isinstance(size, str):
            skipped = size
        else:
            mask = box_mask(found.box, region, width, height, params.dilation)
            skipped = "" if mask.any() else "empty_mask"
        done = size if isinstance(size, Size) and not skipped else None
        crops.append(Crop(number, found, region, done, mask, words, skipped))
    return crops


def batches(crops: Sequence[Crop], max_batch: int) -> list[list[Ready]]:
    """The crops that are painted, in lots that may be painted at once without a difference to one after the other.

    A lot's crops share size and words. None overlaps another of the lot, nor any that comes before it in the order and
    is not painted yet: what is painted later sees what was painted before.
    """
    waiting = [Ready(crop, crop.size) for crop in crops if crop.size is not None]
    lots: list[list[Ready]] = []
    while waiting:
        first = waiting[0]
        lot: list[Ready] = []
        for place, one in enumerate(waiting):
            alike = (one.size, one.crop.words) == (first.size, first.crop.words)
            alone = not any(overlapping(one.crop.region, other.crop.region) for other in waiting[:place])
            if alike and alone and len(lot) < max_batch:
                lot.append(one)
        lots.append(lot)
        waiting = [one for one in waiting if one not in lot]
    return lots
