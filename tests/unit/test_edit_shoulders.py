"""The part of a photo that editing models are shown: head and shoulders, and nobody else's face."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generate.edit.shoulders import LEAST_SIDE, Cut, head_and_shoulders
from shared.vision.boxes import Box

FACE = (1000.0, 1000.0, 100.0, 120.0)
ALONE = Cut(800.0, 885.0, 1300.0, 1460.0)


def test_of_one_person_head_and_shoulders_are_shown() -> None:
    assert head_and_shoulders(FACE, ()) == ALONE
    small = head_and_shoulders((0.0, 0.0, 20.0, 20.0), ())
    assert (small.right - small.left, small.bottom - small.top) == (LEAST_SIDE, LEAST_SIDE)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((1200.0, 980.0, 100.0, 120.0), ALONE._replace(right=1150.0)),
        ((760.0, 1010.0, 100.0, 120.0), ALONE._replace(left=930.0)),
        ((1050.0, 800.0, 100.0, 120.0), ALONE._replace(top=960.0)),
        ((1020.0, 1300.0, 100.0, 120.0), ALONE._replace(bottom=1210.0)),
        ((1120.0, 1200.0, 100.0, 120.0), ALONE._replace(bottom=1160.0)),
        ((1400.0, 1000.0, 100.0, 120.0), ALONE),
        ((1050.0, 1050.0, 100.0, 120.0), ALONE),
    ],
    ids=["right", "left", "above", "below", "aslant", "far away", "over it"],
)
def test_the_part_ends_half_way_to_another_face_where_they_are_farther_apart(other: Box, expected: Cut) -> None:
    assert head_and_shoulders(FACE, (other,)) == expected
    assert expected.shows(other) == (expected == ALONE and other[0] < ALONE.right)


numbers = st.floats(0, 2000, allow_nan=False)
boxes = st.tuples(numbers, numbers, st.floats(40, 400), st.floats(40, 400))


@given(boxes, st.lists(boxes, max_size=5))
def test_the_face_stays_whole_with_room_about_it_and_others_stay_only_where_they_are_too_near(
    face: Box, others: list[Box]
) -> None:
    cut, whole = head_and_shoulders(face, others), head_and_shoulders(face, ())
    x, y, width, height = face
    middle_x, middle_y = x + width / 2, y + height / 2
    assert whole.left <= cut.left <= max(whole.left, min(x, middle_x - 64))
    assert whole.top <= cut.top <= max(whole.top, min(y, middle_y - 64))
    assert whole.right >= cut.right >= min(whole.right, max(x + width, middle_x + 64))
    assert whole.bottom >= cut.bottom >= min(whole.bottom, max(y + height, middle_y + 64))
    near = Cut(
        min(x, middle_x - 64), min(y, middle_y - 64), max(x + width, middle_x + 64), max(y + height, middle_y + 64)
    )
    assert all(near.shows(other) for other in others if cut.shows(other))
