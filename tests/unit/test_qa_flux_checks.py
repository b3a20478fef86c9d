"""The GPU engine's scale, its own checks and what it refuses, with made-up measures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.qa.cosine import likeness
from services.qa.encoders import CONDITIONING, has_a_part
from services.qa.flux_checks import more_checks
from services.qa.observation import FaceObserved, Marks, Observation
from services.qa.stage import STAGE, FluxScoreParams
from shared.contracts.errors import InvalidInput
from shared.contracts.verdict import SAME_PERSON, Check
from shared.vision.measures import GreyLevels

MAIN = FaceObserved(width_share=0.19, sharpness=150.0, distance=0.3, likeness=0.8, best_likeness=0.9)
SEEN = Observation(
    width_px=4096,
    height_px=4096,
    levels=GreyLevels(darkest=3.0, brightest=250.0, mean=120.0, spread=60.0),
    sharpness=300.0,
    faces=(MAIN,),
)
MARKS = Marks(hands=2, blockiness=1.0, clipped=0.01, seam=2.0)


def others(*likenesses: float) -> Observation:
    """With bystanders so like the subject."""
    return replace(SEEN, faces=(MAIN, *(replace(MAIN, likeness=one) for one in likenesses)))


def failed(seen: Observation, marks: Marks, params: FluxScoreParams | None = None) -> list[Check]:
    return [check for check in more_checks(seen, marks, params or FluxScoreParams()) if not check.passed]


def test_a_good_picture_fails_nothing() -> None:
    assert failed(SEEN, MARKS) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hands": 7}, "The picture shows 7 hands."),
        ({"blockiness": 1.61}, "Steps at the edges of blocks are 1.61 times those elsewhere: blocks show."),
        ({"clipped": 0.21}, "21.0 % of the pixels are wholly black or white: detail is lost there."),
    ],
)
def test_one_fault_fails_one_check_with_a_reason(change: dict[str, float], reason: str) -> None:
    (check,) = failed(SEEN, replace(MARKS, **change))  # type: ignore[arg-type] # hands is a whole number
    assert check.reason == reason


def test_the_bounds_are_inclusive() -> None:
    marks = Marks(hands=6, blockiness=1.6, clipped=0.2, seam=2.0)
    assert failed(others(0.5), marks) == []


def test_hands_that_were_not_looked_for_are_no_fault() -> None:
    marks = replace(MARKS, hands=None)
    assert failed(SEEN, marks, FluxScoreParams(hand_detector="none", max_hands=0)) == []
    assert [check.value for check in more_checks(SEEN, marks, FluxScoreParams()) if check.name == "hands"] == [None]


def test_a_seam_is_reported_and_never_fails() -> None:
    assert failed(SEEN, replace(MARKS, seam=100.0)) == []


@pytest.mark.parametrize(
    ("likenesses", "start"),
    [((0.1, 0.55), "1 face beside the main one bears"), ((0.51, 0.7), "2 faces beside the main one bear ")],
)
def test_another_face_with_the_subjects_features_is_a_leak(likenesses: tuple[float, ...], start: str) -> None:
    (check,) = failed(others(*likenesses), MARKS)
    assert (check.name, check.value) == ("leak", max(likenesses))
    assert check.reason.startswith(start)


def test_without_a_face_there_is_no_leak() -> None:
    assert failed(replace(SEEN, faces=()), MARKS) == []


@given(st.floats(0.05, 0.95), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_the_scale_rises_with_the_cosine_and_is_a_share(same_person: float, one: float, other: float) -> None:
    low, high = sorted((likeness(one, same_person), likeness(other, same_person)))
    assert 0.0 <= low <= high <= 1.0
    assert (likeness(max(one, other), same_person), likeness(min(one, other), same_person)) == (high, low)


@given(st.floats(0.05, 0.95))
def test_the_scales_fixed_points(same_person: float) -> None:
    assert likeness(same_person, same_person) == pytest.approx(SAME_PERSON)
    assert likeness(1.0, same_person) == 1.0
    assert likeness(0.0, same_person) == likeness(-1.0, same_person) == 0.0


def test_the_mean_of_likenesses_gains_less_from_one_odd_photo_than_that_of_cosines() -> None:
    """What the choice of the mean over photos rests on."""
    cosines = (0.1, 0.1, 0.1, 1.0)
    assert np.mean([likeness(one, 0.35) for one in cosines]) < likeness(float(np.mean(cosines)), 0.35) - 0.1


@pytest.mark.parametrize("name", ["antelopev2", "buffalo_l", "AntelopeV2"])
def test_a_recipe_that_lets_the_encoder_judge_that_led_the_picture_is_refused(name: str) -> None:
    operation = STAGE.operation("qa.score")
    assert operation is not None
    with pytest.raises(InvalidInput, match=f"recogniser {name} is an encoder by which pictures are made"):
        operation.engines["flux"].parse({"recogniser": name}, "steps.qa")


def test_a_copy_of_it_by_another_name_is_known_by_its_digest() -> None:
    for digest, pack in CONDITIONING.items():
        assert has_a_part("our-own", digest) == pack
    assert has_a_part("auraface", "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60") is None
