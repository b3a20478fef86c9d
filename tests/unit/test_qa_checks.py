"""The judgement, with made-up measures: each bound on both sides, each reason as a reader sees it."""

from dataclasses import replace

import pytest

from services.qa import judge as judging
from services.qa.checks import all_checks
from services.qa.observation import FaceObserved, Observation
from services.qa.stage import ScoreParams
from shared.contracts.verdict import Check, Verdict
from shared.vision.embedding import likeness
from shared.vision.measures import GreyLevels

GOOD_FACE = FaceObserved(width_share=0.19, sharpness=150.0, distance=0.2, likeness=likeness(0.2), best_likeness=0.9)
STRANGER = FaceObserved(width_share=0.05, sharpness=90.0, distance=0.9, likeness=likeness(0.9), best_likeness=0.3)
GOOD = Observation(
    width_px=4096,
    height_px=4096,
    levels=GreyLevels(darkest=3.0, brightest=250.0, mean=120.0, spread=60.0),
    sharpness=300.0,
    faces=(GOOD_FACE,),
)


def judge(seen: Observation, params: ScoreParams) -> Verdict:
    return judging.judge(seen, all_checks(seen, params), "an encoder")


def check(verdict: Verdict, name: str) -> Check:
    (found,) = [check for check in verdict.checks if check.name == name]
    return found


def test_a_good_picture_passes_without_reasons() -> None:
    verdict = judge(GOOD, ScoreParams())
    assert verdict.passed
    assert verdict.reasons == ()
    assert verdict.likeness is not None
    assert verdict.likeness.rating == "excellent"
    assert all(check.passed for check in verdict.checks)


def test_bystanders_are_allowed() -> None:
    assert judge(replace(GOOD, faces=(GOOD_FACE, STRANGER, STRANGER)), ScoreParams()).passed


@pytest.mark.parametrize(
    ("change", "failed", "reason"),
    [
        (
            {"width_px": 1024, "height_px": 512},
            "dimensions",
            "The picture is 1024 x 512 pixels, not 4096 x 4096 pixels.",
        ),
        ({"sharpness": 19.0}, "picture_sharpness", "The picture as a whole is blurred: its sharpness is 19."),
        (
            {"levels": replace(GOOD.levels, brightest=200.0)},
            "brightest_level",
            "The brightest spot has grey level 200 of 255: the picture is underexposed.",
        ),
        (
            {"levels": replace(GOOD.levels, darkest=50.0)},
            "darkest_level",
            "The darkest spot has grey level 50 of 255: the picture is overexposed.",
        ),
        (
            {"levels": replace(GOOD.levels, spread=30.0)},
            "level_spread",
            "The grey levels spread by 30 about their mean: the picture is flat.",
        ),
        (
            {"levels": replace(GOOD.levels, mean=8.0)},
            "not_black",
            "The mean grey level is 8 of 255: the picture is black.",
        ),
        (
            {"faces": (replace(GOOD_FACE, width_share=0.149),)},
            "face_width",
            "The main face takes 14.9 % of the picture's width.",
        ),
        (
            {"faces": (replace(GOOD_FACE, width_share=0.251),)},
            "face_width",
            "The main face takes 25.1 % of the picture's width.",
        ),
        (
            {"faces": (replace(GOOD_FACE, sharpness=39.0),)},
            "face_sharpness",
            "The main face is blurred: its sharpness is 39.",
        ),
        (
            {"faces": (GOOD_FACE, *[STRANGER] * 8)},
            "faces",
            "The picture shows 9 faces.",
        ),
        (
            {"faces": (GOOD_FACE, replace(GOOD_FACE, width_share=0.05))},
            "identities",
            "2 faces of the picture carry the subject's identity.",
        ),
    ],
)
def test_one_fault_fails_one_check_with_a_reason(change: dict[str, object], failed: str, reason: str) -> None:
    verdict = judge(replace(GOOD, **change), ScoreParams())  # type: ignore[arg-type]
    assert not verdict.passed
    assert [check.name for check in verdict.checks if not check.passed] == [failed]
    assert verdict.reasons == (reason,)
    assert check(verdict, failed).reason == reason


@pytest.mark.parametrize("share", [0.15, 0.25])
def test_the_framing_bounds_are_inclusive(share: float) -> None:
    assert judge(replace(GOOD, faces=(replace(GOOD_FACE, width_share=share),)), ScoreParams()).passed


@pytest.mark.parametrize(("apart", "passed", "rating"), [(0.6, True, "acceptable"), (0.61, False, "poor")])
def test_likeness_decides_at_the_boundary(apart: float, passed: bool, rating: str) -> None:
    face = replace(GOOD_FACE, distance=apart, likeness=likeness(apart))
    verdict = judge(replace(GOOD, faces=(face,)), ScoreParams())
    assert verdict.passed is passed
    assert verdict.likeness is not None
    assert verdict.likeness.rating == rating


def test_a_stranger_in_front_fails_even_where_the_subject_stands_behind() -> None:
    """The score is the main face's."""
    front = replace(STRANGER, width_share=0.2)
    verdict = judge(replace(GOOD, faces=(front, replace(GOOD_FACE, width_share=0.1))), ScoreParams())
    assert not verdict.passed
    assert verdict.reasons == (
        "The main face is not enough like the subject: likeness 0.20 to all photos together, 0.30 to the nearest one.",
    )


def test_a_higher_bar_may_be_set_but_not_a_lower_one() -> None:
    face = replace(GOOD_FACE, distance=0.5, likeness=likeness(0.5))
    assert not judge(replace(GOOD, faces=(face,)), ScoreParams(min_likeness=0.7)).passed
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.6"):
        ScoreParams(min_likeness=0.5)


def test_without_a_face_the_verdict_says_so_once() -> None:
    verdict = judge(replace(GOOD, faces=()), ScoreParams())
    assert not verdict.passed
    assert verdict.likeness is None
    assert check(verdict, "likeness").value is None
    assert verdict.reasons == (
        "No face was found in the picture.",
        "No face of the picture carries the subject's identity.",
        "The picture shows no face.",
    )
