"""identity.encode with real photos: what is taken, and how each unusable photo is refused."""

import json
import re
from typing import Any

import numpy as np
import pytest

from services.generate.edit.references import references
from services.identity.portable import PortableEncoder
from services.identity.stage import STAGE, EncodeParams
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import IdentityRecord
from shared.vision.codec import Image, decode
from shared.vision.embedding import distance
from shared.worker.operation import Outcome, Work
from tests.photos import (
    astronaut,
    blurred,
    cameraman,
    coffee,
    hopper,
    inset,
    jpeg,
    lit,
    mirrored,
    png,
    scaled,
    side_by_side,
)
from tests.portable_engines import encoder, finder, identity_engine


def encode(*photos: Image, **params: Any) -> Outcome:
    """Run the operation, its parameters going through JSON as the planner's do."""
    checked = EncodeParams.model_validate_json(json.dumps(params))
    return identity_engine().run(Work(checked, {"photos": tuple(png(photo) for photo in photos)}, seed=0))


def record(outcome: Outcome) -> IdentityRecord:
    return IdentityRecord.from_json(outcome.outputs["identity"].data)


def refusal(*photos: Image, **params: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        encode(*photos, **params)
    return str(refused.value)


def test_the_stage_builds_its_engine() -> None:
    operation = STAGE.operation("identity.encode")
    assert operation is not None
    engine = operation.engines["portable"].build()
    assert isinstance(engine, PortableEncoder)
    models = engine.models(EncodeParams())
    assert set(models) == set(identity_engine().models(EncodeParams()))
    assert len(models) == 5


def test_a_photo_becomes_an_identity_and_a_face() -> None:
    """The outputs are the ones the stage promises, and hold what the photo shows."""
    outcome = encode(astronaut())
    assert tuple(outcome.outputs) == ("identity", "face")
    assert {(output.media_type, output.kind) for output in outcome.outputs.values()} == {
        ("application/json", "identity"),
        ("image/png", "identity"),
    }
    (face,) = record(outcome).faces
    assert face.box == pytest.approx((180, 71, 93, 107), abs=5)
    assert face.eyes[0][0] < face.eyes[1][0]
    assert 0.0 < face.quality <= 1.0
    assert record(outcome).embedding == pytest.approx(face.embedding)


def test_the_face_is_the_same_person_upright() -> None:
    crop = decode(encode(astronaut()).outputs["face"].data)
    assert crop.shape == (512, 512, 3)
    (face,) = finder().find(crop)
    assert abs(face.roll) < 3
    assert distance(encoder().encode(crop, face), record(encode(astronaut())).embedding) < 0.2


def test_the_same_photos_give_the_same_bytes() -> None:
    """Whatever was encoded between, and in another instance."""
    first = encode(astronaut(), mirrored(astronaut()))
    encode(hopper())
    work = Work(EncodeParams(), {"photos": (png(astronaut()), png(mirrored(astronaut())))}, seed=7)
    assert PortableEncoder().run(work) == first
    assert encode(astronaut(), mirrored(astronaut())) == first


def test_the_best_photo_is_the_sharp_and_large_one() -> None:
    """Of a blurred, a good and a dim small photo, the good one is taken; its face is the output."""
    good = scaled(astronaut(), 2.0)
    outcome = encode(blurred(astronaut(), 1.5), good, lit(astronaut(), 0.5))
    assert record(outcome).best == 1
    assert outcome.facts["best_photo"] == 2
    assert outcome.outputs["face"] == encode(good).outputs["face"]


def test_facts_hold_measures_but_no_embedding() -> None:
    """The manifest is kept longer than the biometric record."""
    facts = encode(astronaut(), mirrored(astronaut())).facts
    assert json.loads(json.dumps(facts)) == facts
    assert [face["photo"] for face in json.loads(json.dumps(facts))["faces"]] == [1, 2]
    assert "embedding" not in json.dumps(facts)


def test_progress_ends_at_one() -> None:
    told: list[float] = []
    photos = (png(astronaut()), png(mirrored(astronaut())))
    identity_engine().run(Work(EncodeParams(), {"photos": photos}, 0, told.append))
    assert told == [0.5, 1.0]


def test_jpeg_is_taken_too() -> None:
    outcome = identity_engine().run(Work(EncodeParams(), {"photos": (jpeg(astronaut()),)}, 0))
    assert len(record(outcome).faces) == 1


def test_no_face_is_refused() -> None:
    assert refusal(astronaut(), coffee()) == (
        "photos[2]: no face was found. Use a photo in which the face is seen from the front, whole, lit and in focus."
    )


def test_several_faces_are_refused_with_their_places() -> None:
    assert refusal(side_by_side(astronaut(), hopper())) == (
        "photos[1]: 2 faces were found, from the left edge at 1: 22 %, 2: 76 % of the width. "
        "Say which one is meant, counted from the left (1 is the leftmost), or crop the photo to one person."
    )


@pytest.mark.parametrize(("pick", "person"), [(1, astronaut()), (2, hopper())])
def test_the_caller_may_pick_a_face(pick: int, person: Image) -> None:
    picked = record(encode(side_by_side(astronaut(), hopper()), faces=[pick]))
    assert distance(picked.embedding, record(encode(person)).embedding) < 0.2


def test_where_others_are_is_written_down_and_nothing_where_there_are_none() -> None:
    """For whoever must not take another for the subject."""
    left, right = (encode(side_by_side(astronaut(), hopper()), faces=[pick]) for pick in (1, 2))
    ((one,), (other,)) = (record(outcome).faces for outcome in (left, right))
    assert (one.others, other.others) == ((other.box,), (one.box,))
    assert b"others" not in encode(astronaut()).outputs["identity"].data


@pytest.mark.parametrize(("pick", "person"), [(1, astronaut()), (2, hopper())])
def test_by_the_identity_an_editing_model_is_shown_the_person_who_was_picked_alone(pick: int, person: Image) -> None:
    """Head and shoulders of the second would show the first, too: they end between the two."""
    pair = side_by_side(astronaut()[:, 60:330], hopper())
    (shown,) = references((png(pair),), encode(pair, faces=[pick]).outputs["identity"].data, 1)
    (face,) = finder().find(shown.picture)
    assert shown.others == 0
    assert distance(encoder().encode(shown.picture, face), record(encode(person)).embedding) < 0.3


def test_a_pick_beyond_the_faces_is_refused() -> None:
    assert refusal(astronaut(), side_by_side(astronaut(), hopper()), faces=[None, 3]) == (
        "faces[2]: face 3 was picked, but photos[2] shows 2 faces"
        " (from the left edge at 1: 22 %, 2: 76 % of the width). Pick a face from 1 (the leftmost) to 2."
    )


def test_picks_must_fit_the_photos() -> None:
    assert refusal(astronaut(), faces=[1, 2]).startswith("faces: 2 entries for 1 photo. Give one entry a photo")


@pytest.mark.parametrize("count", [0, 6])
def test_the_number_of_photos_is_bounded(count: int) -> None:
    assert refusal(*[astronaut()] * count) == f"photos: {count} photos. Hand in 1 to 5 photos."


def test_a_passer_by_is_ignored() -> None:
    """A face a quarter as wide as the main one does not make the photo ambiguous; unless the caller asks for all."""
    crowd = inset(scaled(hopper(), 2.0), scaled(astronaut(), 0.6), 0, 0)
    assert record(encode(crowd)).faces[0].box[2] == pytest.approx(382, rel=0.05)
    assert refusal(crowd, background_face_ratio=0.0).startswith("photos[1]: 2 faces were found")


def test_a_small_face_is_refused() -> None:
    small = inset(np.full((512, 512, 3), 90, np.uint8), scaled(astronaut(), 0.6), 100, 100)
    assert re.fullmatch(
        r"photos\[1\]: the face is too small: 5\d pixels wide, at least 80 are needed\. "
        r"Use a photo taken from nearer, or of higher resolution\.",
        refusal(small),
    )


def test_a_face_turned_away_is_refused() -> None:
    assert re.fullmatch(
        r"photos\[1\]: the face is turned 5\d degrees to the picture's right, at most 45 can be used\. "
        r"Use a photo in which the person looks towards the camera\.",
        refusal(scaled(cameraman(), 2.0)),
    )


def test_a_face_that_looks_down_too_far_is_refused() -> None:
    assert re.fullmatch(
        r"photos\[1\]: the face looks 1\d degrees down, at most 5 can be used\. "
        r"Use a photo in which the person looks towards the camera\.",
        refusal(astronaut(), max_pitch_deg=5.0),
    )


def test_a_dark_face_is_refused() -> None:
    assert re.fullmatch(
        r"photos\[1\]: the face is too dark: its mean grey level is 3\d of 255, at least 40 is needed\. "
        r"Use a photo taken in more light, or brighten it\.",
        refusal(lit(astronaut(), 0.2)),
    )


def test_a_bright_face_is_refused() -> None:
    assert re.fullmatch(
        r"photos\[1\]: the face is too bright: its mean grey level is 24\d of 255, at most 230 can be used\. "
        r"Use a photo that is not overexposed\.",
        refusal(lit(astronaut(), 1.0, 130)),
    )


@pytest.mark.parametrize("sigma_px", [3.0, 4.0, 5.0])
def test_a_blurred_face_is_refused(sigma_px: float) -> None:
    message = refusal(blurred(astronaut(), sigma_px))
    assert message.startswith("photos[1]: the face is too blurred: its sharpness is ")
    assert message.endswith("at least 40 is needed. Use a photo in focus and without motion blur.")


def test_another_person_is_refused_by_name() -> None:
    message = refusal(astronaut(), hopper(), mirrored(astronaut()))
    assert message.startswith("photos[2]: shows another person than the rest, distance 0.")
    assert message.endswith("Leave out every photo of another person, and submit again.")


def test_two_photos_of_two_people_are_both_named() -> None:
    assert refusal(astronaut(), hopper()).startswith("photos[1], photos[2]: these photos show different people")
