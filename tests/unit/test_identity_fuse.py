"""Fusing faces, with made-up descriptors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.fuse import consensus, fuse
from services.identity.measure import quality
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FaceMeasure


def face(photo: int, at: float, worth: float = 0.5) -> FaceMeasure:
    """A face whose descriptor lies at `at` on a line: distances are differences."""
    return FaceMeasure(
        photo=photo,
        box=(0.0, 0.0, 100.0, 120.0),
        eyes=((30.0, 40.0), (70.0, 40.0)),
        yaw=0.0,
        pitch=0.0,
        roll=0.0,
        sharpness=300.0,
        exposure=120.0,
        quality=worth,
        embedding=(at, *[0.0] * 127),
    )


def refusal(*places: float) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        fuse([face(photo, at) for photo, at in enumerate(places)], 0.6)
    return refused.value


def test_the_mean_is_weighted_by_quality() -> None:
    """Three parts of one photo and one of the other."""
    record = fuse([face(0, 0.0, 0.75), face(1, 0.4, 0.25)], 0.6)
    assert record.embedding[0] == pytest.approx(0.1)
    assert record.best == 0


def test_without_any_quality_all_count_alike() -> None:
    assert consensus([face(0, 0.0, 0.0), face(1, 0.4, 0.0)])[0] == pytest.approx(0.2)


def test_of_equals_the_first_is_best() -> None:
    assert fuse([face(0, 0.0), face(1, 0.1)], 0.6).best == 0


@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=5), st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5))
def test_the_consensus_lies_among_the_photos(places: list[float], worths: list[float]) -> None:
    faces = [face(photo, at, worths[photo]) for photo, at in enumerate(places)]
    assert min(places) - 1e-9 <= fuse(faces, 0.6).embedding[0] <= max(places) + 1e-9


@given(st.integers(0, 4), st.lists(st.floats(0.0, 0.3), min_size=5, max_size=5), st.floats(1.0, 2.0))
def test_a_stranger_among_five_is_named_wherever_he_is(stranger: int, places: list[float], away: float) -> None:
    places[stranger] = away
    assert refusal(*places).field == f"photos[{stranger + 1}]"


def test_two_strangers_are_both_named_with_their_distances() -> None:
    refused = refusal(0.0, 0.9, 0.0, 0.0, -0.7)
    assert refused.field == "photos[2], photos[5]"
    assert refused.found == ("show another person than the rest, distance 0.90, 0.70 (up to 0.60 is the same person)")


@pytest.mark.parametrize("places", [(0.0, 0.7), (0.0, 0.0, 2.0, 2.0), (0.0, 1.0, 2.0)])
def test_without_a_majority_all_are_named(places: tuple[float, ...]) -> None:
    refused = refusal(*places)
    assert refused.field == ", ".join(f"photos[{number}]" for number in range(1, len(places) + 1))
    assert refused.found.startswith("these photos show different people, at distances up to")


def test_distance_up_to_the_bound_is_the_same_person() -> None:
    assert len(fuse([face(0, 0.0), face(1, 0.6)], 0.6).faces) == 2


@given(
    st.floats(1.0, 4000.0), st.floats(-180.0, 180.0), st.floats(-90.0, 90.0), st.floats(0.0, 1e5), st.floats(0.0, 255.0)
)
def test_quality_is_a_share(width: float, yaw: float, pitch: float, detail: float, level: float) -> None:
    assert 0.0 <= quality(width, yaw, pitch, detail, level) <= 1.0


def test_every_fault_costs_quality() -> None:
    """Smaller, turned, nodding, blurred, dark and bright are each worse than the ideal, which is 1."""
    ideal = quality(256.0, 0.0, 0.0, 400.0, 127.5)
    assert ideal == 1.0
    worse = [
        quality(128.0, 0.0, 0.0, 400.0, 127.5),
        quality(256.0, 30.0, 0.0, 400.0, 127.5),
        quality(256.0, 0.0, -30.0, 400.0, 127.5),
        quality(256.0, 0.0, 0.0, 100.0, 127.5),
        quality(256.0, 0.0, 0.0, 400.0, 50.0),
        quality(256.0, 0.0, 0.0, 400.0, 220.0),
    ]
    assert all(0.0 < value < 1.0 for value in worse)


def test_the_descriptor_keeps_its_length() -> None:
    assert np.asarray(fuse([face(0, 0.2)], 0.6).embedding).shape == (128,)
