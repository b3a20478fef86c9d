"""qa.score on real pictures."""

import numpy as np
import pytest

from services.identity.stage import EncodeParams
from services.qa.portable import PortableScorer
from services.qa.stage import STAGE, ScoreParams
from shared.contracts.errors import InvalidInput
from shared.contracts.verdict import Verdict
from shared.vision.codec import Image
from shared.worker.operation import Outcome, Work
from tests.photos import astronaut, blurred, hopper, inset, lit, mirrored, png, scaled, side_by_side
from tests.portable_engines import identity_engine, qa_engine


def identity_of(*photos: Image) -> bytes:
    work = Work(EncodeParams(), {"photos": tuple(png(photo) for photo in photos)}, seed=0)
    return identity_engine().run(work).outputs["identity"].data


def score(image: Image, subject: bytes, side: int = 512) -> Outcome:
    params = ScoreParams(width=side, height=side)
    return qa_engine().run(Work(params, {"image": (png(image),), "identity": (subject,)}, seed=0))


def verdict(image: Image, subject: bytes, side: int = 512) -> Verdict:
    return Verdict.from_json(score(image, subject, side).outputs["verdict"].data)


def failed(judged: Verdict) -> set[str]:
    return {check.name for check in judged.checks if not check.passed}


def test_the_stage_builds_its_engine() -> None:
    operation = STAGE.operation("qa.score")
    assert operation is not None
    engine = operation.engines["portable"].build()
    assert isinstance(engine, PortableScorer)
    models = engine.models(ScoreParams())
    assert models == qa_engine().models(ScoreParams()) == identity_engine().models(EncodeParams())


def test_the_subjects_own_photo_passes() -> None:
    """The astronaut's photo happens to be framed by the rule."""
    judged = verdict(astronaut(), identity_of(astronaut()))
    assert judged.passed, judged.reasons
    assert judged.likeness is not None
    assert judged.likeness.score > 0.99


def test_enlarging_changes_little() -> None:
    """A 4096 pixel picture is judged by the same measures as the small one it came from."""
    subject = identity_of(astronaut(), mirrored(astronaut()))
    large, small = verdict(scaled(astronaut(), 8.0), subject, 4096), verdict(astronaut(), subject)
    assert large.passed, large.reasons
    assert large.likeness is not None
    assert small.likeness is not None
    assert large.likeness.score == pytest.approx(small.likeness.score, abs=0.05)


def test_a_stranger_fails_by_likeness() -> None:
    judged = verdict(astronaut(), identity_of(hopper()))
    assert failed(judged) == {"likeness", "identities"}
    assert judged.likeness is not None
    assert judged.likeness.rating == "poor"
    assert judged.reasons[0].startswith("The main face is not enough like the subject: likeness 0.")
    assert judged.reasons[1] == "No face of the picture carries the subject's identity."


def test_the_subject_must_appear_only_once() -> None:
    judged = verdict(scaled(side_by_side(astronaut(), mirrored(astronaut())), 0.5), identity_of(astronaut()))
    assert "2 faces of the picture carry the subject's identity." in judged.reasons


def test_a_bystander_in_the_background_is_no_fault() -> None:
    picture = inset(scaled(astronaut(), 2.0), scaled(hopper(), 0.25)[:, :100], 0, 850)
    judged = verdict(picture, identity_of(astronaut()), 1024)
    assert judged.passed, judged.reasons
    assert [check.value for check in judged.checks if check.name == "faces"] == [2.0]


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_nothing_fails_without_an_error(level: int) -> None:
    """Black or white throughout: a verdict with every reason, no exception."""
    judged = verdict(np.full((512, 512, 3), level, np.uint8), identity_of(astronaut()))
    assert judged.likeness is None
    assert {"likeness", "faces", "level_spread", "picture_sharpness"} <= failed(judged)
    assert ("not_black" in failed(judged)) == (level == 0)


def test_a_wrong_size_fails() -> None:
    judged = verdict(astronaut(), identity_of(astronaut()), 4096)
    assert judged.reasons == ("The picture is 512 x 512 pixels, not 4096 x 4096 pixels.",)


@pytest.mark.parametrize(
    ("picture", "fault"),
    [
        (blurred(astronaut(), 1.0), "face_sharpness"),
        (blurred(astronaut(), 4.0), "picture_sharpness"),
        (lit(astronaut(), 0.7), "brightest_level"),
        (lit(astronaut(), 0.7, 70), "darkest_level"),
        (lit(astronaut(), 0.3, 60), "level_spread"),
        (np.tile(astronaut(), (1, 2, 1)), "face_width"),
    ],
    ids=["soft face", "blurred", "dim", "washed out", "flat", "too small"],
)
def test_a_spoilt_picture_fails_the_check_that_names_the_fault(picture: Image, fault: str) -> None:
    assert fault in failed(verdict(picture, identity_of(astronaut())))


def test_the_verdict_is_repeatable_and_its_summary_is_in_the_facts() -> None:
    subject = identity_of(astronaut())
    first = score(astronaut(), subject)
    score(hopper(), subject)
    assert score(astronaut(), subject) == first
    assert first.facts["passed"] is True
    assert first.facts["identity_rating"] == "excellent"
    assert first.facts["reasons"] == []
    assert (first.outputs["verdict"].media_type, first.outputs["verdict"].kind) == ("application/json", "verdict")


def test_what_is_no_identity_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^identity\.faces: "):
        score(astronaut(), b"{}")
