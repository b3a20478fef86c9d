"""What is painted with which words, and which crops may be painted at once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.swap.detailer.plan import Crop, batches, plan
from services.swap.detailer.regions import overlapping
from services.swap.detailer.segments import Choice, Found
from services.swap.stage import FluxHandsParams
from shared.vision.boxes import Box

SIDE = 400


def planned(boxes: list[Box], **params: Any) -> list[Crop]:
    given = {"prompt": "hands", "guide_size": 64, "max_size": 128, "crop_factor": 2.0, **params}
    return plan(Choice(tuple(Found(box, 0.9) for box in boxes), ()), SIDE, SIDE, FluxHandsParams(**given))


def apart(count: int) -> list[Box]:
    """Equal boxes in a row whose crops do not touch."""
    return [(20.0 + 90 * number, 100.0, 40.0, 40.0) for number in range(count)]


def numbers(crops: list[Crop], max_batch: int = 4) -> list[list[int]]:
    return [[one.crop.number for one in lot] for lot in batches(crops, max_batch)]


def test_each_has_its_prompt_and_those_beyond_have_the_common_one() -> None:
    assert [crop.words for crop in planned(apart(3), prompts=("left", "middle"))] == ["left", "middle", "hands"]


def test_skip_leaves_one_alone_and_stop_all_that_follow() -> None:
    skipped = [crop.skipped for crop in planned(apart(3), prompts=("a", "[SKIP]"))]
    assert skipped == ["", "prompt", ""]
    stopped = [crop.skipped for crop in planned(apart(3), prompts=("a", " [STOP] "))]
    assert stopped == ["", "prompt", "prompt"]


def test_a_mask_that_is_eroded_away_is_left_alone() -> None:
    (crop,) = planned(apart(1), dilation=-60)
    assert (crop.skipped, crop.size) == ("empty_mask", None)
    assert numbers([crop]) == []


def test_what_is_left_alone_keeps_its_number_so_that_the_others_keep_their_seeds() -> None:
    assert numbers(planned(apart(4), prompts=("hands", "[SKIP]"))) == [[0, 2, 3]]


def test_crops_of_one_size_and_the_same_words_are_painted_at_once() -> None:
    assert numbers(planned(apart(4))) == [[0, 1, 2, 3]]
    assert numbers(planned(apart(4)), max_batch=3) == [[0, 1, 2], [3]]
    assert numbers(planned(apart(4)), max_batch=1) == [[0], [1], [2], [3]]
    assert numbers(planned(apart(3), prompts=("hands", "a fist"))) == [[0, 2], [1]]


def test_crops_of_other_sizes_are_painted_apart() -> None:
    boxes: list[Box] = [(20, 20, 40, 40), (200, 20, 40, 80), (20, 250, 40, 40)]
    assert numbers(planned(boxes, max_size=512)) == [[0, 2], [1]]


def test_what_overlaps_waits_for_what_comes_before_it() -> None:
    """The second overlaps the first, the third overlaps the second: each must see what was painted before."""
    boxes: list[Box] = [(20, 100, 40, 40), (70, 100, 40, 40), (120, 100, 40, 40), (300, 100, 40, 40)]
    assert numbers(planned(boxes)) == [[0, 3], [1], [2]]


places = st.tuples(st.integers(0, 340), st.integers(0, 340), st.sampled_from([30, 40, 60]))


@given(st.lists(places, max_size=10), st.integers(1, 5))
def test_batches_change_no_order_that_could_be_seen(spots: list[tuple[int, int, int]], most: int) -> None:
    """Each crop is in one batch; of two that overlap the earlier is in an earlier batch; sizes and words agree."""
    crops = planned([(float(x), float(y), float(side), float(side)) for x, y, side in spots])
    lots = batches(crops, most)
    assert sorted(one.crop.number for lot in lots for one in lot) == [c.number for c in crops if c.size is not None]
    turn = {one.crop.number: number for number, lot in enumerate(lots) for one in lot}
    for lot in lots:
        assert 1 <= len(lot) <= most
        assert len({(one.size, one.crop.words) for one in lot}) == 1
        assert [one.crop.number for one in lot] == sorted(one.crop.number for one in lot)
    for number, crop in enumerate(crops):
        for later in crops[number + 1 :]:
            if overlapping(crop.region, later.region):
                assert turn[crop.number] < turn[later.number]


@pytest.mark.parametrize("dilation", [-9, -4, -1, 0, 1, 2, 5, 10])
def test_the_mask_is_the_filled_box_dilated_by_hand(dilation: int) -> None:
    """A pixel is 1 if any (eroded: all) of the square about it was; the box's last column and row count."""
    (crop,) = planned([(100.7, 120.2, 30.6, 20.4)], dilation=dilation)
    filled = np.zeros((SIDE, SIDE), bool)
    filled[120:141, 100:132] = True
    reach = abs(dilation)
    changed = filled.copy()
    if dilation:
        offsets = range(-(reach // 2), reach - reach // 2)
        shifted = np.stack([np.roll(filled, (-dy, -dx), (0, 1)) for dy in offsets for dx in offsets])
        changed = shifted.any(axis=0) if dilation > 0 else shifted.all(axis=0)
    region = crop.region
    expected = changed[region.top : region.bottom, region.left : region.right]
    assert crop.mask.dtype == np.float32
    np.testing.assert_array_equal(crop.mask, expected.astype(np.float32))


def test_the_region_is_the_boxs_not_the_dilated_masks() -> None:
    small, large = (planned(apart(1), dilation=dilation)[0] for dilation in (0, 40))
    assert small.region == large.region
    assert large.mask.sum() > small.mask.sum()
