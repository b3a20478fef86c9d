"""The portable engine keeps the framing rule for every framing of the photo, and is a pure function of its work."""

from functools import cache

import numpy as np
import pytest

from services.generate.portable import PortableGenerate, relevant
from services.generate.stage import STAGE, ComposeParams
from shared.contracts.errors import InvalidInput
from shared.contracts.scene import Backdrop, Framing
from shared.prompts.catalogue import load_catalogue
from shared.vision.codec import Image, decode
from shared.vision.embedding import FaceEncoder, distance
from shared.vision.faces import FaceFinder
from shared.worker.operation import Outcome, Work
from tests.engines.generate_subjects import SUBJECTS

BACKDROPS = load_catalogue().backdrops


@cache
def engine() -> PortableGenerate:
    return PortableGenerate()


@cache
def finder() -> FaceFinder:
    return FaceFinder()


@cache
def encoder() -> FaceEncoder:
    return FaceEncoder()


def run(name: str, params: ComposeParams, seed: int = 7) -> Outcome:
    return engine().run(Work(params, SUBJECTS[name].inputs(), seed))


@cache
def made(name: str, backdrop: str = "studio", seed: int = 7) -> tuple[Image, Outcome]:
    outcome = run(name, ComposeParams(backdrop=BACKDROPS[backdrop]), seed)
    return decode(outcome.outputs["image"].data), outcome


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_face_takes_15_to_25_percent_of_the_width(name: str) -> None:
    image, outcome = made(name)
    (face,) = finder().find(image)
    assert 0.15 <= face.box[2] / image.shape[1] <= 0.25
    assert outcome.facts["face_width"] == pytest.approx(face.box[2] / image.shape[1], abs=0.015)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_person_is_the_person(name: str) -> None:
    image, _ = made(name)
    subject = SUBJECTS[name]
    before, after = finder().find(subject.photo)[0], finder().find(image)[0]
    assert distance(encoder().encode(subject.photo, before), encoder().encode(image, after)) < 0.3


@pytest.mark.parametrize("name", ["bust", "head", "face off the middle"])
def test_no_edge_of_the_photo_shows_as_a_straight_cut(name: str) -> None:
    """In no column and no row do most neighbours differ at once, as they do along a cut."""
    image, _ = made(name)
    levels = image.mean(axis=2)
    for axis in (0, 1):
        steps = np.abs(np.diff(levels, axis=axis)) > 25
        assert steps.mean(axis=1 - axis).max() < 0.25


def test_hair_cut_by_the_photo_is_cut_by_the_frame() -> None:
    """The photo ends in the hair; the picture then ends there too, instead of showing a flat top."""
    image, _ = made("hair cut off above")
    face = finder().find(image)[0]
    middle = round(face.box[0] + face.box[2] / 2)
    hair = image[: round(face.box[1]), middle - 20 : middle + 20].astype(float)
    assert np.abs(hair[0].mean(axis=0) - made("hair cut off above")[0][2, 20].astype(float)).max() > 30


def test_the_framing_asked_for_is_kept_where_the_photo_allows_it() -> None:
    wish = Framing(face_width=0.2, centre_x=0.46, centre_y=0.38)
    facts = run("half body", ComposeParams(framing=wish)).facts
    assert facts["face_width"] == pytest.approx(0.2, abs=0.02)
    assert facts["centre_x"] == pytest.approx(0.46, abs=0.06)
    assert facts["centre_y"] == pytest.approx(0.38, abs=0.04)


def test_same_work_same_bytes_whatever_the_engine_did_before() -> None:
    params = ComposeParams(backdrop=BACKDROPS["ward"], width=512, height=512)
    work = Work(params, SUBJECTS["half body"].inputs(), 7)
    outcome = engine().run(work)
    assert run("head", params, 8).outputs["image"].data != outcome.outputs["image"].data
    assert engine().run(work).outputs["image"].data == outcome.outputs["image"].data
    assert PortableGenerate().run(work).outputs["image"].data == outcome.outputs["image"].data


def test_another_seed_changes_the_scene_and_keeps_the_person() -> None:
    one, two = made("half body", "ward", 7)[0].astype(float), made("half body", "ward", 8)[0].astype(float)
    face = finder().find(made("half body", "ward", 7)[0])[0].box
    x, y, width, height = (round(value) for value in face)
    assert np.abs(one - two)[:, :150].mean() > 2
    assert np.abs(one - two)[y : y + height, x : x + width].mean() < 8


@pytest.mark.parametrize(("width", "height"), [(512, 512), (768, 1024), (1280, 720), (2048, 2048)])
def test_the_picture_has_the_size_asked_for(width: int, height: int) -> None:
    outcome = run("half body", ComposeParams(width=width, height=height))
    assert decode(outcome.outputs["image"].data).shape == (height, width, 3)


def test_words_are_no_parameters() -> None:
    """A prompt changes no pixel here, so it must not change the step key."""
    assert not {"prompt", "negative_prompt"} & set(ComposeParams.model_fields)


def test_stage_names_an_engine_that_can_be_built() -> None:
    operation = STAGE.operation("generate.text_to_image")
    assert operation is not None
    assert operation.seeded
    assert operation.engines["portable"].build().models(ComposeParams()) == engine().models(ComposeParams())


def test_parameters_cross_the_wire() -> None:
    params = ComposeParams(backdrop=BACKDROPS["campus"])
    assert ComposeParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("name", ["a photo too few", "a face outside"])
def test_an_identity_of_other_photos_is_refused(name: str) -> None:
    inputs = SUBJECTS["half body"].inputs()
    if name == "a photo too few":
        inputs = {**inputs, "photos": ()}
    else:
        inputs = {**inputs, "photos": SUBJECTS["head"].inputs()["photos"]}
        inputs["identity"] = SUBJECTS["half body, large"].inputs()["identity"]
    with pytest.raises(InvalidInput) as refused:
        engine().run(Work(ComposeParams(), inputs, 1))
    assert refused.value.field in {"photos", "identity"}


def test_only_what_a_framing_can_show_is_worked_on() -> None:
    photo = np.zeros((4000, 4000, 3), np.uint8)
    part, face = relevant(photo, (1900.0, 1500.0, 200.0, 240.0), 1024)
    assert part.shape[1] == pytest.approx(2 * 4.6 * 200, abs=2)
    small, smaller = relevant(photo, (1500.0, 1500.0, 1024.0, 1100.0), 1024)
    assert smaller[2] == pytest.approx(256)
    assert small.shape[1] < 1024
    assert face[2] == 200


def test_progress_is_told() -> None:
    told: list[float] = []
    params = ComposeParams(backdrop=Backdrop(), width=512, height=512)
    engine().run(Work(params, SUBJECTS["half body"].inputs(), 1, told.append))
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] < 1
