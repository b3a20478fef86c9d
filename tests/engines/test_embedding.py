"""Telling people apart, and the scale of likeness."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.verdict import SAME_PERSON, rating_of
from shared.vision.codec import Image, decode
from shared.vision.embedding import SAME_PERSON_DISTANCE, Descriptor, distance, likeness
from tests.photos import astronaut, blurred, cameraman, hopper, jpeg, lit, mirrored, scaled, turned
from tests.portable_engines import encoder, finder

DISTANCES = st.floats(min_value=0.0, max_value=10.0)


def describe(image: Image) -> Descriptor:
    """The descriptor of a picture's largest face."""
    return encoder().encode(image, finder().find(image)[0])


@given(st.lists(DISTANCES, min_size=2).map(sorted))
def test_a_greater_distance_is_never_more_alike(distances: list[float]) -> None:
    assert all(likeness(near) >= likeness(far) for near, far in pairwise(distances))


@given(DISTANCES)
def test_likeness_is_a_share_and_means_the_same_person_up_to_the_boundary(value: float) -> None:
    assert 0.0 <= likeness(value) <= 1.0
    assert (likeness(value) >= SAME_PERSON) == (value <= SAME_PERSON_DISTANCE)


def test_the_scale_is_anchored() -> None:
    assert likeness(0.0) == 1.0
    assert likeness(SAME_PERSON_DISTANCE) == SAME_PERSON == 0.60
    assert [rating_of(likeness(value)) for value in (0.3, 0.45, 0.6, 0.61)] == [
        "excellent",
        "good",
        "acceptable",
        "poor",
    ]


@pytest.mark.parametrize(
    "variant",
    [
        mirrored(astronaut()),
        scaled(astronaut(), 0.5),
        scaled(astronaut(), 2.0),
        decode(jpeg(astronaut(), 30)),
        lit(astronaut(), 0.6),
        lit(astronaut(), 1.4),
        turned(astronaut(), 20.0),
        turned(astronaut(), -45.0),
    ],
    ids=["mirror", "half", "double", "jpeg30", "dim", "bright", "turn20", "turn-45"],
)
def test_one_person_is_excellently_alike_under_any_treatment(variant: Image) -> None:
    assert rating_of(likeness(distance(describe(astronaut()), describe(variant)))) == "excellent"


def test_blur_costs_likeness_but_not_the_identity() -> None:
    apart = [distance(describe(astronaut()), describe(blurred(astronaut(), sigma))) for sigma in (1.0, 2.0, 4.0)]
    assert apart == sorted(apart)
    assert apart[-1] < SAME_PERSON_DISTANCE


@pytest.mark.parametrize(
    ("one", "other"), [(astronaut(), hopper()), (astronaut(), cameraman()), (hopper(), cameraman())]
)
def test_strangers_are_poorly_alike(one: Image, other: Image) -> None:
    apart = distance(describe(one), describe(other))
    assert apart > SAME_PERSON_DISTANCE
    assert rating_of(likeness(apart)) == "poor"


def test_a_face_always_gives_the_same_descriptor() -> None:
    first = describe(astronaut())
    describe(hopper())
    assert first.shape == (128,)
    assert first.dtype == np.float64
    assert np.array_equal(describe(astronaut()), first)
