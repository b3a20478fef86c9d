"""Batches from a file: what is read, how it is split, what is published and followed."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.batch import BatchFile, requests_of
from doctor_image_gen.batch_client import BatchClient
from doctor_image_gen.client import Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.broker.topology import INTAKE_KEY, queue_name
from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.batch import BatchRequest
from shared.contracts.errors import InvalidInput, Transient
from shared.contracts.request import PhotoRef
from shared.storage.digest import sha256
from shared.vision.photos import PhotoLimits
from tests.unit.job_files import put_jobs
from tests.unit.letter_samples import DAWN, at
from tests.unit.photo_files import encoded, picture

REF = PhotoRef(key="inbox/" + "a" * 64 + ".png", sha256="a" * 64)
PHOTO = encoded(picture(), "PNG")


def batch(subjects: int = 1, scenarios: int = 1, photos: int = 1, **fields: Any) -> BatchFile:
    """So many doctors in so many scenarios."""
    doctors = [{"subject": f"dr-{number}", "photos": ["me.png"] * photos} for number in range(subjects)]
    names = [f"scenario_{number}" for number in range(scenarios)]
    return BatchFile.parse({"subjects": doctors, "scenarios": names, **fields})


def parts(wanted: BatchFile) -> tuple[BatchRequest, ...]:
    return requests_of(wanted, "batch-1", [(REF,) * len(doctor.photos) for doctor in wanted.subjects], DAWN)


@pytest.mark.parametrize(
    ("subjects", "scenarios", "photos"), [(1, 1, 1), (100, 3, 5), (1, 500, 1), (101, 101, 1), (250, 12, 2), (3, 333, 5)]
)
def test_every_subject_is_in_every_scenario_once_and_every_part_is_small_enough(
    subjects: int, scenarios: int, photos: int
) -> None:
    wanted = batch(subjects, scenarios, photos, custom_prompt="ü" * 500)
    made = parts(wanted)
    pairs = Counter((one.subject, name) for part in made for one in part.subjects for name in part.scenarios)
    assert len(pairs) == subjects * scenarios
    assert set(pairs.values()) == {1}
    assert all(len(part.to_json()) <= MESSAGE_LIMIT_BYTES for part in made)
    assert [part.part for part in made] == list(range(1, len(made) + 1))
    assert {part.parts for part in made} == {len(made)}


def test_a_batch_that_fits_is_one_request_and_says_what_was_asked_for() -> None:
    wanted = batch(2, 2, seed=7, deadline_s=120, overrides={"refine": {"grain": 0.1}}, caller="clinic")
    (request,) = parts(wanted)
    assert (request.batch_id, request.caller, request.seed, request.priority) == ("batch-1", "clinic", 7, "bulk")
    assert request.deadline == at(2)
    assert request.overrides == {"refine": {"grain": 0.1}}
    assert [one.subject for one in request.subjects] == ["dr-0", "dr-1"]


def test_what_is_too_large_for_any_message_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^overrides: one subject in one scenario takes \d+ bytes"):
        parts(batch(3, 3, overrides={"refine": {"grain": "x" * 17_000}}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scenarios: [a]", "subjects: Field required"),
        ("{scenarios: [a], subjects: []}", "subjects: Tuple should have at least 1 item"),
        ("{scenarios: [a], subjects: [{subject: x, photos: []}]}", "subjects.0.photos: Tuple should have at least 1"),
        ("{scenarios: [a], subjects: [{subject: x, photo: y}]}", "subjects.0.photo: there is no such field"),
        ("{scenarios: [a, a], subjects: [{subject: x, photos: [y]}]}", "scenarios: 'a' is named twice."),
        (
            "{scenarios: [a], subjects: [{subject: x, photos: [y]}, {subject: x, photos: [z]}]}",
            "subjects: 'x' is named twice. Name each once.",
        ),
        ("{scenarios: [a], subjects: [{subject: x, photos: [y]}], prio: bulk}", "prio: there is no such field"),
        ("[1, 2", "this is not YAML"),
        ("- 1", "BatchFile: Input should be an object"),
    ],
)
def test_a_file_that_is_no_batch_is_named_with_the_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        BatchFile.read(path)
    assert words in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^FILE: '.*nowhere\.yaml' cannot be read \(No such file or directory\)"):
        BatchFile.read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenario_images": {"b": {"pose": "p.png"}}}, "scenario_images.b: the batch has no scenario of that name"),
        ({"images": {"photos": "p.png"}}, "images.photos.[key]: Value error, 'photos' is the name of the photos"),
        (
            {"images": {f"x{n}": "p.png" for n in range(8)}, "scenario_images": {"a": {"y": "p.png"}}},
            "9 different images",
        ),
        ({"images": {"pose": ""}}, "images.pose: String should have at least 1 character"),
    ],
)
def test_images_that_no_job_could_bring_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        BatchFile.parse({"scenarios": ["a"], "subjects": [{"subject": "x", "photos": ["y"]}], **changes})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images:\n  pose: a.png\n  pose: b.png\n", "line 3: 'pose' is named twice. Name each once."),
        ('{"images": {"pose": "a", "style": "b", "pose": "c"}}', "line 1: 'pose' is named twice."),
        ("scenarios: [a]\nscenarios: [b]\n", "line 2: 'scenarios' is named twice."),
    ],
)
def test_a_name_that_stands_twice_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    """Of two equal keys YAML's reader would keep the last."""
    (tmp_path / "batch.yaml").write_text(text)
    with pytest.raises(InvalidInput) as refused:
        BatchFile.read(tmp_path / "batch.yaml")
    assert words in str(refused.value)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
        yield connections


@pytest.fixture
def client(connections: Connections) -> BatchClient:
    return BatchClient(connections, Client(connections, PhotoLimits()))


def published(connections: Connections) -> list[BatchRequest]:
    with closing(connections.broker.subscribe(queue_name(INTAKE_KEY))) as queue:
        taken = []
        while (delivery := queue.receive(0.1)) is not None:
            delivery.ack()
            taken.append(BatchRequest.from_json(delivery.body))
        return taken


def test_photos_are_found_beside_the_file_and_every_part_is_published(
    connections: Connections, client: BatchClient, tmp_path: Path
) -> None:
    (tmp_path / "doe").mkdir()
    (tmp_path / "doe" / "me.png").write_bytes(PHOTO)
    path = tmp_path / "batch.json"
    doctor = {"subject": "dr-doe", "photos": ["doe/me.png"], "consent": {"basis": "written"}, "faces": [1]}
    path.write_text(json.dumps({"batch_id": "autumn", "subjects": [doctor], "scenarios": ["a", "b"]}))
    assert client.submit(BatchFile.read(path), tmp_path) == "autumn"
    (request,) = published(connections)
    (one,) = request.subjects
    assert one.photos[0].sha256 == sha256(PHOTO)
    assert one.photos[0].face == 1
    assert one.consent is not None
    assert connections.store.get(one.photos[0].key) == PHOTO


def test_one_photo_that_cannot_be_used_keeps_the_whole_batch_back(
    connections: Connections, client: BatchClient, tmp_path: Path
) -> None:
    (tmp_path / "me.png").write_bytes(PHOTO)
    doctors = [{"subject": "a", "photos": ["me.png"]}, {"subject": "b", "photos": ["me.png", "you.png"]}]
    with pytest.raises(InvalidInput, match=r"^subjects\[2\]\.photos\[2\]: there is no file"):
        client.submit(BatchFile.parse({"subjects": doctors, "scenarios": ["a"]}), tmp_path)
    assert published(connections) == []


def test_images_are_put_where_the_jobs_find_them_and_each_part_names_its_own(
    connections: Connections, client: BatchClient, tmp_path: Path
) -> None:
    drawings = {name: encoded(picture(512, side), "PNG") for name, side in (("all", 513), ("a", 514), ("own", 515))}
    for name, data in {"me": PHOTO, **drawings}.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    doctors: list[dict[str, Any]] = [{"subject": f"dr-{number}", "photos": ["me.png"]} for number in (1, 2)]
    doctors[1]["images"] = {"style": "own.png"}
    wanted = {
        "subjects": doctors,
        "scenarios": ["a", *(f"scenario_{number}" for number in range(150))],
        "images": {"pose": "all.png", "style": "all.png"},
        "scenario_images": {"a": {"pose": "a.png"}},
    }
    client.submit(BatchFile.parse(wanted), tmp_path)
    parts = published(connections)
    assert len(parts) > 1
    digests = {name: sha256(data) for name, data in drawings.items()}
    for part in parts:
        assert {name: ref.sha256 for name, ref in part.images.items()} == dict.fromkeys(
            ("pose", "style"), digests["all"]
        )
        expected = {"a": digests["a"]} if "a" in part.scenarios else {}
        assert {name: refs["pose"].sha256 for name, refs in part.scenario_images.items()} == expected
        own = {one.subject: {name: ref.sha256 for name, ref in one.images.items()} for one in part.subjects}
        assert own.get("dr-1", {}) == {}
        assert own.get("dr-2", {"style": digests["own"]}) == {"style": digests["own"]}
        assert all(connections.store.get(ref.key) == drawings["all"] for ref in part.images.values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"images": {"pose": "no.png"}}, "images.pose"),
        ({"scenario_images": {"a": {"pose": "no.png"}}}, "scenario_images.a.pose"),
        (
            {"subjects": [{"subject": "x", "photos": ["me.png"], "images": {"pose": "no.png"}}]},
            "subjects[1].images.pose",
        ),
    ],
)
def test_an_image_that_cannot_be_used_keeps_the_whole_batch_back(
    connections: Connections, client: BatchClient, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    (tmp_path / "me.png").write_bytes(PHOTO)
    wanted = {"subjects": [{"subject": "x", "photos": ["me.png"]}], "scenarios": ["a"], **changes}
    with pytest.raises(InvalidInput, match="there is no file") as refused:
        client.submit(BatchFile.parse(wanted), tmp_path)
    assert refused.value.field == field
    assert published(connections) == []


def test_a_batch_that_nobody_knows_is_named(client: BatchClient) -> None:
    with pytest.raises(InvalidInput, match=r"^batch_id: there is no batch 'nope'"):
        client.summary("nope")
    with pytest.raises(Transient, match=r"batch nope did not end within 0\.01 seconds"):
        client.follow("nope", lambda _: None, timeout_s=0.01)


def test_a_batch_is_over_when_the_journal_says_so(connections: Connections, client: BatchClient) -> None:
    """Though the event that told of its end was missed."""
    (request,) = parts(batch())
    connections.jobs.file_batch_part(request, 0)
    assert connections.jobs.close_batch("batch-1", lambda _: None)
    assert client.follow("batch-1", lambda _: None, timeout_s=5).closed
