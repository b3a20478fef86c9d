"""The vocabulary: strict, versioned, documented, small."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shared.contracts.batch import BatchRequest
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.schemas import PUBLISHED, schema_files
from shared.contracts.verdict import rating_of

DOCS = Path(__file__).parents[2] / "docs" / "contracts"
PHOTO = {"key": "inbox/a.jpg", "sha256": "a" * 64}
IMAGE = {"key": "inbox/pose.png", "sha256": "c" * 64}
SCHEMAS = schema_files()
REQUEST: dict[str, Any] = {"subject": "dr-1", "photos": [PHOTO], "scenario": "consultant"}


def request(**changes: Any) -> JobRequest:
    return JobRequest.from_json(json.dumps({**REQUEST, **changes}))


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_documented_schema_is_the_code_s(name: str) -> None:
    """Mend with: python -m shared.contracts.schemas docs/contracts."""
    assert (DOCS / name).read_text("utf-8") == SCHEMAS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_schema_is_valid_and_lets_nothing_unknown_through(name: str) -> None:
    schema = PUBLISHED[name].model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


def test_a_minimal_request_is_enough_and_satisfies_its_schema() -> None:
    assert request().priority == "interactive"
    jsonschema.validate(REQUEST, PUBLISHED["job-request"].model_json_schema())


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"subject": "../../etc"}, "subject", "pattern"),
        ({"subject": ".hidden"}, "subject", "pattern"),
        ({"photos": []}, "photos", "at least 1 item"),
        ({"photos": [PHOTO] * 6}, "photos", "at most 5 items"),
        ({"photos": [{**PHOTO, "key": "subjects/other/photo/x.png"}]}, "photos.0.key", "pattern"),
        ({"photos": [{**PHOTO, "key": "inbox/../subjects/x"}]}, "photos.0.key", "segments"),
        ({"photos": [{**PHOTO, "sha256": "A" * 64}]}, "photos.0.sha256", "pattern"),
        ({"photos": [{**PHOTO, "face": 0}]}, "photos.0.face", "greater than or equal to 1"),
        ({"images": {"pose-2": IMAGE}}, "images.pose-2.[key]", "pattern"),
        ({"images": {"photos": IMAGE}}, "images.photos.[key]", "'photos' is the name of the photos of the person"),
        ({"images": {f"image_{number}": IMAGE for number in range(9)}}, "images", "at most 8 items"),
        ({"images": {"pose": {**IMAGE, "key": "subjects/other/photo/x.png"}}}, "images.pose.key", "pattern"),
        ({"images": {"pose": {**IMAGE, "face": 1}}}, "images.pose.face", "there is no such field"),
        ({"images": {"pose": [IMAGE]}}, "images.pose", "should be an object"),
        ({"scenario": "Consultant!"}, "scenario", "pattern"),
        ({"custom_prompt": "x" * 1001}, "custom_prompt", "at most 1000 characters"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": "7"}, "seed", "valid integer"),
        ({"priority": "urgent"}, "priority", "'interactive' or 'bulk'"),
        ({"deadline": "2026-01-01T00:00:00"}, "deadline", "timezone"),
        ({"deadline": "tomorrow"}, "deadline", "datetime"),
        ({"consent": {"basis": ""}}, "consent.basis", "at least 1 character"),
        ({"attributes": {"age": 12}}, "attributes.age", "greater than or equal to 18"),
        ({"schema_version": 7}, "schema_version", "this is version 7, we read 1. Run a newer worker."),
        ({"schema_version": "1"}, "schema_version", "Input should be 1"),
        ({"scenarios": "consultant"}, "scenarios", "Did you mean scenario"),
        ({"job_id": "a", "idempotency_key": "b"}, "JobRequest", "not both"),
    ],
)
def test_a_bad_request_is_refused_with_field_finding_and_mend(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request(**changes)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"\xff", b"null"])
def test_what_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="JobRequest"):
        JobRequest.from_json(body)


def test_a_document_survives_the_wire_unchanged() -> None:
    original = request(deadline="2027-01-01T12:00:00+01:00", overrides={"refine": {"grain": 0.5}})
    assert JobRequest.from_json(original.to_json()) == original
    assert original.deadline == datetime(2027, 1, 1, 11, tzinfo=UTC)


def test_contracts_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Control(kind="cancel", job_id="a").job_id = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("a", {"x": "b.out"}), ("b", {})], "no earlier step makes"),
        ([("a", {}), ("a", {})], "used twice"),
        ([("a", {"x": "request.photos"})], "'z.image' is made by no step"),
        ([("z", {"x": "request._pose"})], r"'request\._pose' is read, and no request can name an image so"),
        (
            [("z", {f"x{n}": f"request.x{n}" for n in range(9)})],
            "it reads 9 images of the request, which names at most 8",
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(steps: list[tuple[str, dict[str, str]]], words: str) -> None:
    document = {
        "name": "r",
        "version": 1,
        "title": "t",
        "result": "z.image",
        "verdict": f"{steps[0][0]}.verdict",
        "steps": [{"name": name, "operation": "refine.x", "inputs": inputs} for name, inputs in steps],
    }
    with pytest.raises(InvalidInput, match=words):
        Recipe.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gate": {"back_to": "identity"}}, None),
        ({"gate": {"back_to": "paint"}}, None),
        ({"gate": {"back_to": "judge"}}, "goes back to 'judge', which is no step before 'judge'"),
        ({"gate": {"back_to": "pain"}}, "goes back to 'pain', which is no step before 'judge'"),
        ({"gate": {"back_to": "paint"}, "result": "identity.image"}, "which would stay as it is"),
        (
            {"gate": {"back_to": "identity"}, "verdict": "paint.verdict"},
            "make 'paint', which gives the verdict",
        ),
        ({"gate": {"back_to": "paint", "attempts": 9}}, "less than or equal to 8"),
        ({"gate": {"back_to": "paint", "atempts": 2}}, "Did you mean attempts"),
    ],
)
def test_a_gate_goes_back_from_the_end_of_a_recipe(changes: dict[str, Any], words: str | None) -> None:
    names = ("identity", "paint", "judge")
    steps: list[dict[str, Any]] = [{"name": name, "operation": "refine.x", "inputs": {}} for name in names]
    ends = {"result": "paint.image", "verdict": "judge.verdict", **changes}
    document = json.dumps({"name": "r", "version": 1, "title": "t", "steps": steps, **ends})
    if words is None:
        assert Recipe.from_json(document).gate is not None
        return
    with pytest.raises(InvalidInput, match=words):
        Recipe.from_json(document)


def test_a_job_without_a_gate_says_nothing_of_attempts_that_an_older_reader_would_not_know() -> None:
    ref = {"key": "subjects/dr/result/a.png", "sha256": "ab" * 32, "size": 1, "media_type": "image/png"}
    summary = {"passed": True, "reasons": []}
    result = {"image": ref, "verdict": ref, "summary": summary, "trail": [], "seconds": 1.0, "cost_usd": 0.1}
    document = {
        "schema_version": 1,
        "event_id": "e",
        "kind": "done",
        "job_id": "j",
        "caller": "c",
        "at": "2026-11-20T06:00:00Z",
        "worker": "w",
        "run": 0,
        "result": result,
    }
    assert json.loads(Event.from_json(json.dumps(document)).to_json()) == document


def test_a_recipe_s_images_are_those_that_its_steps_read_of_the_request() -> None:
    """In the order of their first use, each once; the photos are not among them."""
    steps = [
        ("a", {"photos": "request.photos", "start": "request.room", "more": "request.pose"}),
        ("b", {"image": "a.image", "again": "request.room", "style": "request.style_2"}),
    ]
    document = {"name": "r", "version": 1, "title": "t", "result": "a.image", "verdict": "b.verdict"}
    named = [{"name": name, "operation": "refine.x", "inputs": inputs} for name, inputs in steps]
    assert Recipe.from_json(json.dumps({**document, "steps": named})).images == ("room", "pose", "style_2")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scenario_images": {"nowhere": {"pose": IMAGE}}}, "'nowhere', which is not among the scenarios"),
        ({"scenario_images": {"speaker": {"Pose": IMAGE}}}, "pattern"),
        (
            {
                "images": {f"a{n}": IMAGE for n in range(5)},
                "scenario_images": {"speaker": {f"b{n}": IMAGE for n in range(4)}},
            },
            "9 different images are named, and a recipe reads at most 8",
        ),
    ],
)
def test_a_batch_whose_jobs_could_not_name_their_images_is_refused(fields: dict[str, Any], words: str) -> None:
    """As a whole: its jobs are made of it by intake, when nobody can mend it any more."""
    batch = {"batch_id": "b", "subjects": [{"subject": "dr-1", "photos": [PHOTO]}], "scenarios": ["speaker"]}
    with pytest.raises(InvalidInput, match=words):
        BatchRequest.from_json(json.dumps({**batch, **fields}))


@pytest.mark.parametrize(
    ("likeness", "rating"),
    [
        (1.0, "excellent"),
        (0.8, "excellent"),
        (0.79, "good"),
        (0.7, "good"),
        (0.69, "acceptable"),
        (0.6, "acceptable"),
        (0.59, "poor"),
    ],
)
def test_ratings_begin_at_their_stated_bounds(likeness: float, rating: str) -> None:
    assert rating_of(likeness) == rating
