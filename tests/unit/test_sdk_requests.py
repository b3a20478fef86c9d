"""What the SDK makes of its arguments: options, requests, files. Nothing is worked off here."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.client import Client, id_of
from doctor_image_gen.generator import requests_for
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.base import now
from shared.contracts.errors import InvalidInput
from shared.contracts.request import JobRequest
from shared.storage.digest import sha256
from shared.vision.photos import PhotoLimits
from tests.unit.job_files import put_jobs
from tests.unit.photo_files import encoded, picture

PHOTO = encoded(picture(), "PNG")
POSE = encoded(picture(512, 513), "PNG")


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    connections = Connections.open(Settings(data_dir=tmp_path / "data"))
    yield connections
    connections.close()


@pytest.fixture
def client(connections: Connections) -> Client:
    return Client(connections, PhotoLimits())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "me.png").write_bytes(PHOTO)
    return tmp_path / "me.png"


def request(client: Client, photo: Path, settings: dict[str, Any] | None = None, **wish: Any) -> JobRequest:
    (made,) = requests_for(client, [photo], ["consultant"], wish, GenerationOptions.parse(settings or {}))
    return made


def test_dotted_settings_are_overrides_of_single_parameters() -> None:
    options = GenerationOptions.parse(
        {"seed": 7, "refine.grain": 0.3, "refine.tone": 0.1, "overrides": {"refine": {"grain": 0.9}, "qa": {}}}
    )
    assert options.seed == 7
    assert options.overrides == {"refine": {"grain": 0.3, "tone": 0.1}, "qa": {}}, "the dotted one goes before"


def test_the_caller_s_own_dictionary_is_left_as_it_was() -> None:
    settings = {"overrides": {"refine": {"grain": 0.9}}, "refine.tone": 0.1}
    GenerationOptions.parse(settings)
    assert settings == {"overrides": {"refine": {"grain": 0.9}}, "refine.tone": 0.1}


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"sead": 1}, "settings.sead", "there is no such field. Did you mean seed?"),
        ({"grain": 1}, "settings.grain", "A step's parameter is written with its step, as refine.grain is."),
        ({"seed": -1}, "settings.seed", "greater than or equal to 0, found -1"),
        ({"seed": 2**32}, "settings.seed", "less than 4294967296"),
        ({"recipe": "A b"}, "settings.recipe", "found 'A b'"),
        ({"priority": "now"}, "settings.priority", "'interactive' or 'bulk', found 'now'"),
        ({"deadline_s": 0}, "settings.deadline_s", "greater than 0, found 0"),
        ({"deadline_s": float("inf")}, "settings.deadline_s", "less than or equal to 2592000, found inf"),
        ({"timeout_s": float("nan")}, "settings.timeout_s", "found nan"),
        ({"faces": [0]}, "settings.faces.0", "greater than or equal to 1, found 0"),
        ({"faces": 1}, "settings.faces", "valid tuple, found 1"),
        ({"overrides": 5}, "settings.overrides", "valid dictionary, found 5"),
        ({"overrides": {"refine": 5}}, "settings.overrides.refine", "valid dictionary, found 5"),
        ({"refine.grain": object()}, "settings.overrides.refine.grain", "not a valid JSON value"),
        ({"Refine.grain": 1}, "settings.overrides.Refine.[key]", "found 'Refine'"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(settings: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        GenerationOptions.parse(settings)
    assert refused.value.field == field
    assert words in str(refused.value)


def test_a_request_says_what_was_asked_for(client: Client, photo: Path) -> None:
    made = request(
        client,
        photo,
        {"seed": 7, "recipe": "quick", "engine": "flux", "priority": "bulk", "refine.grain": 0.3, "faces": [2]},
        photography_style="cinematic",
        custom_prompt="autumn light",
        subject="dr-hopper",
        caller="clinic",
        attributes={"gender": "female", "age": 60},
        consent={"basis": "written"},
    )
    assert (made.scenario, made.photography_style, made.custom_prompt) == ("consultant", "cinematic", "autumn light")
    assert (made.seed, made.recipe, made.engine, made.priority) == (7, "quick", "flux", "bulk")
    assert made.overrides == {"refine": {"grain": 0.3}}
    assert (made.subject, made.caller) == ("dr-hopper", "clinic")
    assert (made.attributes.gender, made.attributes.age) == ("female", 60)
    assert made.consent is not None
    assert made.consent.basis == "written"
    assert made.photos[0].face == 2


def test_what_is_not_said_is_left_to_the_deployment(client: Client, photo: Path) -> None:
    made = request(client, photo, photography_style=None, consent=None, subject=None)
    assert (made.photography_style, made.recipe, made.engine, made.seed, made.deadline) == (None,) * 5


def test_the_subject_is_named_after_the_first_photo_s_bytes(client: Client, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.png").write_bytes(PHOTO)
    subject = f"person-{sha256(PHOTO)[:16]}"
    assert request(client, photo).subject == request(client, tmp_path / "copy.png").subject == subject


def test_the_photo_lies_in_the_inbox_before_the_request_names_it(
    client: Client, photo: Path, connections: Connections
) -> None:
    (reference,) = request(client, photo).photos
    assert connections.store.get(reference.key) == PHOTO
    assert reference.sha256 == sha256(PHOTO)


def test_one_bad_photo_and_none_is_put_anywhere(client: Client, photo: Path, connections: Connections) -> None:
    with pytest.raises(InvalidInput, match=r"^photos\[2\]: there is no file"):
        requests_for(client, [photo, photo.with_name("no.png")], ["consultant"], {}, GenerationOptions())
    assert list(connections.store.keys("inbox/")) == []


@pytest.fixture
def pose(tmp_path: Path) -> Path:
    (tmp_path / "pose.png").write_bytes(POSE)
    return tmp_path / "pose.png"


def test_an_image_lies_in_the_inbox_before_the_request_names_it(
    client: Client, photo: Path, pose: Path, connections: Connections
) -> None:
    made = request(client, photo, images={"pose": pose, "style": str(photo)})
    assert {name: ref.sha256 for name, ref in made.images.items()} == {"pose": sha256(POSE), "style": sha256(PHOTO)}
    assert connections.store.get(made.images["pose"].key) == POSE
    assert not made.images["pose"].shared
    assert request(client, photo).images == request(client, photo, images=None).images == {}


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("pose", "no.png", "images.pose: there is no file"),
        ("pose", "", "images.pose: '.*' is a folder"),
        ("pose", "words.png", "images.pose: the file is .*, not a JPEG or PNG"),
        ("Pose", "me.png", "images.Pose: this is no name for an image. Use lower-case letters, digits and '_'"),
        ("my-pose", "me.png", "images.my-pose: this is no name for an image"),
        ("photos", "me.png", "images.photos: this is no name for an image.* 'photos' is taken by the photos"),
    ],
)
def test_one_bad_image_and_none_is_put_anywhere(
    client: Client, photo: Path, connections: Connections, name: str, file: str, words: str
) -> None:
    photo.with_name("words.png").write_text("words")
    with pytest.raises(InvalidInput, match=f"^{words}"):
        request(client, photo, images={name: photo.parent / file})
    assert list(connections.store.keys("inbox/")) == []


def test_more_images_than_any_recipe_reads_are_refused(client: Client, photo: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^images: 9 images are given\. Give at most 8\.$"):
        request(client, photo, images={f"image_{number}": photo for number in range(9)})


@pytest.mark.parametrize("images", [["pose.png"], "pose.png", {"pose": 7}])
def test_images_that_are_no_files_by_name_are_refused(client: Client, photo: Path, images: object) -> None:
    with pytest.raises(InvalidInput, match=r"^images(\.pose)?: .* Give files by name"):
        request(client, photo, images=images)


def test_faces_are_given_photo_by_photo_and_may_stop_early(client: Client, photo: Path) -> None:
    (made,) = requests_for(client, [photo, photo, photo], ["speaker"], {}, GenerationOptions(faces=(None, 2)))
    assert [one.face for one in made.photos] == [None, 2, None]


def test_the_deadline_counts_from_now(client: Client, photo: Path) -> None:
    before = now()
    deadline = request(client, photo, {"deadline_s": 60}).deadline
    assert deadline is not None
    assert timedelta(0) <= deadline - before - timedelta(seconds=60) < timedelta(seconds=10)


def test_two_requests_are_two_jobs_unless_a_key_says_otherwise(client: Client, photo: Path) -> None:
    assert id_of(request(client, photo)) != id_of(request(client, photo))
    assert id_of(request(client, photo, job_id="mine")) == "mine"
    first, second = (request(client, photo, idempotency_key="order-1") for _ in range(2))
    assert id_of(first) == id_of(second)


def test_a_batch_s_key_holds_for_each_scenario_apart(client: Client, photo: Path) -> None:
    wish = {"idempotency_key": "order-1"}
    names = ["consultant", "speaker"]
    first, second = requests_for(client, [photo], names, wish, GenerationOptions(), key_per_scenario=True)
    (again,) = requests_for(client, [photo], ["speaker"], wish, GenerationOptions(), key_per_scenario=True)
    assert id_of(first) != id_of(second) == id_of(again)


@pytest.mark.parametrize(
    ("wish", "field", "words"),
    [
        ({"seed": 7}, "seed", "there is no such keyword. Write settings={'seed': …}."),
        ({"faces": [1]}, "faces", "Write settings={'faces': …}."),
        ({"subjct": "x"}, "subjct", "Did you mean subject"),
        ({"photos": []}, "photos", "there is no such keyword"),
        ({"subject": "../x"}, "subject", "found '../x'"),
        ({"subject": "Dr. X"}, "subject", "found 'Dr. X'"),
        ({"attributes": {"age": 7}}, "attributes.age", "greater than or equal to 18, found 7"),
        ({"attributes": {"name": "x"}}, "attributes.name", "there is no such field"),
        ({"consent": {"basis": ""}}, "consent.basis", "at least 1 character"),
        ({"custom_prompt": "x" * 1001}, "custom_prompt", "at most 1000 characters"),
        ({"idempotency_key": "x" * 300}, "idempotency_key", "at most 200 characters"),
        ({"job_id": "a", "idempotency_key": "b"}, "JobRequest", "state job_id or idempotency_key, not both"),
    ],
)
def test_a_keyword_that_cannot_be_used_is_named(
    client: Client, photo: Path, wish: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        request(client, photo, **wish)
    assert refused.value.field == field
    assert words in str(refused.value)


@pytest.mark.parametrize("scenario", ["../../etc/passwd", "a/b", "Consultant", ""])
def test_a_scenario_s_name_never_becomes_a_path(client: Client, photo: Path, scenario: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        requests_for(client, [photo], [scenario], {}, GenerationOptions())
    assert refused.value.field == "scenario"


def test_a_job_that_nobody_knows_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"^job_id: there is no job 'nope'\. `doctorgen status` lists"):
        client.job("nope")
