"""What is cut out around a box, how large it is painted, and which boxes are chosen: FaceDetailer's rules."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.swap.detailer.regions import LARGEST_PX, Size, crop_region, overlapping, painted_size
from services.swap.detailer.segments import Choice, Found, Order, choose, clipped, overlap
from shared.vision.blend import Region
from shared.vision.boxes import Box


@dataclass(frozen=True)
class How:
    guide_size: int = 512
    guide_size_for: str = "bbox"
    max_size: int = 1024
    force_inpaint: bool = True


def chosen(
    boxes: list[Box], side: int = 1000, drop_size: int = 10, most: int = 16, order: Order = "detector"
) -> Choice:
    found = [Found(box, 0.9 - 0.1 * number) for number, box in enumerate(boxes)]
    return choose(found, side, side, drop_size, most, order)


def boxes_of(choice: Choice) -> list[Box]:
    return [one.box for one in choice.done]


# What is chosen


def test_what_is_not_wider_and_higher_than_drop_size_is_left_alone() -> None:
    choice = chosen([(0, 0, 10, 40), (50, 0, 40, 10), (100, 0, 10.5, 10.5)])
    assert boxes_of(choice) == [(100, 0, 10.5, 10.5)]
    assert [one.why for one in choice.left] == ["drop_size", "drop_size"]


def test_a_box_told_twice_is_done_once_the_better_one() -> None:
    choice = chosen([(100, 100, 50, 50), (101, 100, 50, 50), (140, 100, 50, 50)])
    assert [one.score for one in choice.done] == pytest.approx([0.9, 0.7])
    assert [one.found.score for one in choice.left] == pytest.approx([0.8])
    assert [one.why for one in choice.left] == ["doubled"]


def test_a_box_that_reaches_beyond_the_picture_is_cut_at_its_border() -> None:
    choice = chosen([(-20, 960, 60, 80), (1200, 100, 50, 50)])
    assert boxes_of(choice) == [(0, 960, 40, 40)]
    assert [one.why for one in choice.left] == ["drop_size"]


def test_the_largest_so_many_are_done_in_the_detectors_order() -> None:
    choice = chosen([(0, 0, 20, 20), (100, 0, 40, 40), (200, 0, 30, 30)], most=2)
    assert boxes_of(choice) == [(100, 0, 40, 40), (200, 0, 30, 30)]
    assert [one.why for one in choice.left] == ["most"]


@pytest.mark.parametrize(
    ("order", "lefts"),
    [
        ("detector", [300, 0, 600]),
        ("left_to_right", [0, 300, 600]),
        ("right_to_left", [600, 300, 0]),
        ("largest_first", [600, 300, 0]),
        ("smallest_first", [0, 300, 600]),
    ],
)
def test_the_order_is_the_one_asked_for(order: Order, lefts: list[int]) -> None:
    boxes: list[Box] = [(300, 0, 40, 40), (0, 0, 20, 20), (600, 0, 80, 80)]
    assert [box[0] for box in boxes_of(chosen(boxes, order=order))] == lefts


@pytest.mark.parametrize("order", ["largest_first", "smallest_first", "left_to_right", "right_to_left"])
def test_of_equal_ones_those_found_first_come_first(order: Order) -> None:
    boxes: list[Box] = [(50, 500, 20, 20), (50, 0, 20, 20)]
    assert boxes_of(chosen(boxes, order=order)) == boxes


numbers = st.floats(-300, 1300, allow_nan=False)
sides = st.floats(0, 1500, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers, sides, sides), max_size=12), st.integers(1, 5))
def test_each_box_is_done_or_left_with_a_reason_and_none_leaves_the_picture(boxes: list[Box], most: int) -> None:
    choice = chosen(boxes, most=most)
    assert len(choice.done) + len(choice.left) == len(boxes)
    assert len(choice.done) <= most
    for x, y, width, height in boxes_of(choice):
        assert min(width, height) > 10
        assert x >= 0
        assert y >= 0
        assert x + width <= 1000.001
        assert y + height <= 1000.001


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == 0
    assert clipped((-5, -5, 3, 3), 100, 100)[2:] == (0, 0)


# What is cut out


@pytest.mark.parametrize(
    ("box", "factor", "expected"),
    [
        ((400, 300, 100, 60), 3.0, Region(300, 240, 600, 420)),
        ((400, 300, 100, 60), 1.0, Region(400, 300, 500, 360)),
        ((10, 300, 100, 60), 3.0, Region(0, 240, 300, 420)),  # shifted to the right
        ((880, 700, 100, 60), 3.0, Region(700, 620, 1000, 800)),  # to the left and up
        ((100, 100, 600, 600), 3.0, Region(0, 0, 1000, 800)),  # larger than the picture
        ((400.6, 300.2, 33.4, 33.4), 3.0, Region(367, 266, 467, 366)),  # cut to whole pixels
    ],
)
def test_the_crop_is_the_box_enlarged_about_its_middle_and_shifted_inwards(
    box: Box, factor: float, expected: Region
) -> None:
    assert crop_region(box, factor, 1000, 800) == expected


@given(
    st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 1), st.floats(0.02, 1), st.floats(1, 10),
    st.integers(64, 3000), st.integers(64, 3000),
)  # fmt: skip
def test_a_crop_lies_in_the_picture_holds_its_box_and_is_as_large_as_it_may(
    x: float, y: float, w: float, h: float, factor: float, width: int, height: int
) -> None:
    box = clipped((x * width, y * height, w * width, h * height), width, height)
    assume(min(box[2:]) > 1)
    region = crop_region(box, factor, width, height)
    assert 0 <= region.left < region.right <= width
    assert 0 <= region.top < region.bottom <= height
    slack = 2.001  # beginning and length are both cut to whole pixels
    assert region.left - slack <= box[0]
    assert region.top - slack <= box[1]
    assert region.right + slack >= box[0] + box[2]
    assert region.bottom + slack >= box[1] + box[3]
    assert region.right - region.left == pytest.approx(min(width, box[2] * factor), abs=slack)
    assert region.bottom - region.top == pytest.approx(min(height, box[3] * factor), abs=slack)


def test_regions_that_only_touch_do_not_overlap() -> None:
    one = Region(0, 0, 10, 10)
    assert not overlapping(one, Region(10, 0, 20, 10))
    assert not overlapping(one, Region(0, 10, 10, 20))
    assert overlapping(one, Region(9, 9, 20, 20))
    assert overlapping(Region(2, 2, 4, 4), one)


# How large it is painted


@pytest.mark.parametrize(
    ("box_side", "crop_side", "how", "expected"),
    [
        (170, 200, How(), Size(608, 608)),  # 512 / 170 * 200 = 602: the nearest multiple of 16
        (100, 300, How(), Size(1024, 1024)),  # 512 / 100 * 300 would be 1536
        (100, 300, How(guide_size_for="crop"), Size(512, 512)),
        (100, 300, How(guide_size_for="crop", guide_size=2048, max_size=2048), Size(2048, 2048)),
        (600, 900, How(), Size(896, 896)),  # large enough, and painted as large as it is
        (600, 900, How(force_inpaint=False), "large_enough"),
        (500, 1500, How(force_inpaint=False), "large_enough"),  # the crop would have to be reduced
        (500, 1500, How(), Size(1504, 1504)),
        (700, 2100, How(), "too_large"),
        (12, 12, How(guide_size=64), Size(64, 64)),
    ],
)
def test_the_size_follows_guide_size_max_size_and_force_inpaint(
    box_side: int, crop_side: int, how: How, expected: Size | str
) -> None:
    assert painted_size((0, 0, box_side, box_side), Region(0, 0, crop_side, crop_side), how) == expected


def test_a_box_is_large_enough_only_if_both_sides_are() -> None:
    how = How(force_inpaint=False)
    assert painted_size((0, 0, 600, 300), Region(0, 0, 600, 300), how) == Size(1024, 512)
    assert painted_size((0, 0, 600, 512), Region(0, 0, 600, 512), how) == "large_enough"


@given(
    st.integers(2, 2500), st.integers(2, 2500), st.floats(0.05, 1), st.floats(0.05, 1), st.integers(64, 2048),
    st.integers(4, 128), st.sampled_from(["bbox", "crop"]), st.booleans(),
)  # fmt: skip
def test_whatever_the_crop_flux_can_paint_its_size(
    width: int, height: int, across: float, down: float, guide: int, max_16: int, of: str, force: bool
) -> None:
    """Multiples of 16, never enlarged beyond `max_size`, and in the crop's proportions to within half a token."""
    box, how = (0.0, 0.0, across * width, down * height), How(guide, of, 16 * max_16, force)
    size = painted_size(box, Region(0, 0, width, height), how)
    if isinstance(size, str):
        assert size == ("large_enough" if not force else "too_large")
        return
    assert all(side % 16 == 0 and 16 <= side <= max(LARGEST_PX, how.max_size) for side in size)
    if max(size) > how.max_size:  # then it was not enlarged
        assert abs(size.width - width) <= 8 or size.width == 16
        assert abs(size.height - height) <= 8 or size.height == 16
    if min(size) > 16:  # one scale for both sides, but for the rounding
        assert (size.width - 9) / width <= (size.height + 9) / height
        assert (size.height - 9) / height <= (size.width + 9) / width
    without = painted_size(box, Region(0, 0, width, height), replace(how, force_inpaint=False))
    assert without in {size, "large_enough"}
