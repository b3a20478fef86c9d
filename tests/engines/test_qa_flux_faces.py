"""What the GPU engine of qa.score says of real faces, with dlib's network in the recogniser's place."""

import numpy as np
import pytest

from services.qa.flux import score as score_with
from services.qa.flux_observe import Eyes
from services.qa.references import references_of
from services.qa.stage import FluxScoreParams
from shared.contracts.errors import InvalidInput
from shared.contracts.verdict import Check, Verdict
from shared.vision.codec import Image, decode
from shared.vision.networks.yolo import Detection
from shared.worker.operation import Outcome, Work
from tests.engines.real_faces import RealFinder, describer, six_people
from tests.photos import (
    astronaut,
    coffee,
    hopper,
    inset,
    jpeg,
    lit,
    mirrored,
    png,
    scaled,
    side_by_side,
    turned,
)


class Hands:
    """Finds as many as it is told."""

    def __init__(self, count: int) -> None:
        self._count = count

    def find(self, _: Image) -> tuple[Detection, ...]:
        return (Detection((0.0, 0.0, 10.0, 10.0), 0.9, 0),) * self._count


def score(image: Image, *photos: Image, hands: int | None = 2, **params: object) -> Outcome:
    height, width = image.shape[:2]
    size = {"width": max(64, width), "height": max(64, height)}
    wanted = FluxScoreParams.model_validate({**size, **params})
    eyes = Eyes(RealFinder(), describer(), "an encoder", None if hands is None else Hands(hands))
    work = Work(wanted, {"image": (png(image),), "identity": (b"whatever",)}, seed=0)
    return score_with(work, tuple(png(photo) for photo in photos), eyes)


def verdict(image: Image, *photos: Image, hands: int | None = 2, **params: object) -> Verdict:
    return Verdict.from_json(score(image, *photos, hands=hands, **params).outputs["verdict"].data)


def failed(judged: Verdict) -> set[str]:
    return {check.name for check in judged.checks if not check.passed}


def check(judged: Verdict, name: str) -> Check:
    (found,) = [check for check in judged.checks if check.name == name]
    return found


def face_of(image: Image, number: int) -> Image:
    """A square about one face, counted from the left, three times as wide."""
    faces = sorted(RealFinder().find(image), key=lambda face: face.box[0])
    x, y, width, height = faces[number].box
    left, top, side = round(x - width), round(y + height / 2 - 1.5 * width), round(3 * width)
    return np.ascontiguousarray(image[max(0, top) : top + side, max(0, left) : left + side])


def test_the_same_person_passes() -> None:
    judged = verdict(astronaut(), astronaut())
    assert judged.passed, judged.reasons
    assert judged.likeness is not None
    assert judged.likeness.encoder == "an encoder"
    assert judged.likeness.score > 0.99
    assert judged.likeness.distance < 0.02


def test_the_same_person_in_other_light_and_another_size_passes_by_likeness() -> None:
    photos = (mirrored(astronaut()), decode(jpeg(astronaut(), 30)), turned(astronaut(), 20.0))
    for picture in (scaled(astronaut(), 4.0), lit(astronaut(), 0.6)):
        judged = verdict(picture, *photos)
        assert not failed(judged) & {"likeness", "identities", "leak"}
        assert judged.likeness is not None
        assert judged.likeness.score > 0.8


def test_another_person_fails() -> None:
    judged = verdict(astronaut(), hopper())
    assert failed(judged) == {"likeness", "identities"}
    assert judged.likeness is not None
    assert judged.likeness.rating == "poor"


def test_a_picture_cannot_gain_by_resembling_one_odd_photo() -> None:
    """The score is the mean over all photos; the best stands in the reason, and each in the facts."""
    outcome = score(astronaut(), hopper(), mirrored(hopper()), lit(hopper(), 0.8), astronaut())
    judged = Verdict.from_json(outcome.outputs["verdict"].data)
    assert "likeness" in failed(judged)
    assert "1.00 to the nearest one" in check(judged, "likeness").reason
    each = outcome.facts["likeness_by_photo"]
    assert isinstance(each, list)
    assert each[3] == pytest.approx(1.0, abs=0.01)
    assert judged.likeness is not None
    assert judged.likeness.score == pytest.approx(np.mean(each), abs=0.001)  # type: ignore[arg-type] # numbers


@pytest.mark.parametrize("number", [0, 3])
def test_of_a_photo_with_several_people_the_one_in_the_other_photos_is_meant(number: int) -> None:
    crowd = six_people()
    alone = face_of(crowd, number)
    found = references_of((png(crowd), png(mirrored(alone))), (None, None), RealFinder(), describer())
    assert found.directions[0] @ found.directions[1] > 0.7
    assert (found.photos, found.with_several) == ((1, 2), (1,))


@pytest.mark.parametrize(("pick", "passes"), [(4, True), (1, False), (6, False)])
def test_a_picture_is_held_against_the_face_that_the_caller_picked(pick: int, passes: bool) -> None:
    """Of a group photo, where no other photo tells who is meant."""
    outcome = score(mirrored(face_of(six_people(), 3)), six_people(), faces=(pick,))
    assert ("likeness" not in failed(Verdict.from_json(outcome.outputs["verdict"].data))) is passes
    assert (outcome.facts["photos"], outcome.facts["photos_of_several_people"]) == ([1], [])


def test_a_pick_says_who_is_meant_in_the_other_photos() -> None:
    outcome = score(mirrored(face_of(six_people(), 3)), mirrored(six_people()), six_people(), faces=(None, 4))
    assert "likeness" not in failed(Verdict.from_json(outcome.outputs["verdict"].data))
    assert outcome.facts["photos_of_several_people"] == [1]


def test_a_photo_with_fewer_faces_than_the_pick_is_left_out_and_named() -> None:
    """The other detector saw more. That is no fault of the picture, and no error."""
    outcome = score(astronaut(), six_people(), astronaut(), coffee(), faces=(7, None, 1))
    assert outcome.facts["photos"] == [2]
    assert (outcome.facts["photos_without_pick"], outcome.facts["photos_without_face"]) == ([1], [3])
    assert Verdict.from_json(outcome.outputs["verdict"].data).passed


def test_where_all_photos_are_left_out_the_picks_are_named() -> None:
    with pytest.raises(InvalidInput) as refused:
        score(astronaut(), astronaut(), coffee(), faces=(2, 1))
    assert str(refused.value) == (
        "photos: face 2 was picked, but photos[1] shows 1 face to the verdict's detector; photos[2] shows none. "
        "Crop the photos to the person who is meant, and pick no face in them."
    )


def test_picks_must_fit_the_photos() -> None:
    with pytest.raises(InvalidInput, match="faces: 1 entries for 2 photos"):
        score(astronaut(), astronaut(), astronaut(), faces=(1,))


def test_the_subject_twice_fails() -> None:
    judged = verdict(side_by_side(astronaut(), mirrored(astronaut())), astronaut())
    assert {"identities", "leak"} <= failed(judged)
    assert "1 face beside the main one bears the subject's features" in check(judged, "leak").reason


def test_a_stranger_in_the_background_is_no_leak() -> None:
    picture = inset(scaled(astronaut(), 2.0), scaled(hopper(), 0.25)[:, :100], 0, 850)
    judged = verdict(picture, astronaut())
    assert judged.passed, judged.reasons
    assert check(judged, "leak").value is not None
    assert check(judged, "faces").value == 2.0


def test_hands_are_counted() -> None:
    judged = verdict(astronaut(), astronaut(), hands=7)
    assert failed(judged) == {"hands"}
    assert judged.reasons == ("The picture shows 7 hands.",)
    assert check(verdict(astronaut(), astronaut(), hands=None), "hands").reason == "Hands were not looked for."


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nothing_fails_without_an_error(level: int) -> None:
    judged = verdict(np.full((512, 512, 3), level, np.uint8), astronaut())
    assert judged.likeness is None
    assert {"likeness", "identities", "faces", "face_width", "level_spread"} <= failed(judged)
    assert ("not_black" in failed(judged)) == (level == 0)
    assert ("clipped" in failed(judged)) == (level != 128)


def test_a_picture_without_a_face_or_of_a_single_pixel_fails_without_an_error() -> None:
    for picture in (coffee(), astronaut()[:1, :1]):
        judged = verdict(picture, astronaut())
        assert judged.likeness is None
        assert "faces" in failed(judged)


def test_a_face_cut_by_the_border_is_judged() -> None:
    judged = verdict(astronaut()[:, 200:], astronaut(), max_face_width_share=1.0)
    assert judged.likeness is None or judged.likeness.score < 0.99
    assert check(judged, "likeness").reason


def test_photos_in_which_no_face_is_seen_are_passed_over_and_named() -> None:
    outcome = score(astronaut(), coffee(), astronaut())
    assert outcome.facts["photos"] == [2]
    assert outcome.facts["photos_without_face"] == [1]
    assert Verdict.from_json(outcome.outputs["verdict"].data).passed


def test_without_any_face_in_the_photos_the_fault_is_the_photos() -> None:
    with pytest.raises(InvalidInput, match="photos: no face was found in any of the 2 photos"):
        score(astronaut(), coffee(), coffee())


def test_a_photo_that_is_no_picture_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"photos\[2\]"):
        references_of((png(astronaut()), b"no picture"), (None, None), RealFinder(), describer())


def test_the_verdict_is_repeatable() -> None:
    first = score(astronaut(), astronaut(), hopper())
    score(hopper(), astronaut())
    assert score(astronaut(), astronaut(), hopper()) == first
