"""Intake: anyone may publish a request; what is wrong with it is told at once, and nothing accepted is lost."""

import json
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from services.gateway.answers import NO_JOB_HEADER
from services.gateway.defaults import GenerationDefaults
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing
from shared.broker.topology import EVENTS, INTAKE_KEY, JOURNAL, work_queues
from shared.contracts.errors import Permanent, Transient
from shared.storage.digest import sha256
from tests.unit.gateway_door import Door, opened
from tests.unit.photo_files import encoded, picture

POSED = {"recipe": "portrait-posed"}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path) as door:
        yield door


def test_an_accepted_request_is_noted_told_and_published_to_its_first_stage(door: Door) -> None:
    door.publish(job_id="job-1")
    step = door.step()
    assert (step.job_id, step.step.name, step.recipe) == ("job-1", "identity", "portrait")
    assert door.event().kind == "accepted"
    job = door.job("job-1")
    assert job.first_message == step
    assert [one.step for one in job.steps] == [one.name for one in step.steps]
    (photo,) = step.artifacts["request.photos"]
    assert photo.key.startswith("subjects/dr-1/photo/")
    assert door.store.blobs[photo.key].startswith(b"\x89PNG")


def test_an_image_is_taken_in_as_a_photo_is_and_goes_with_the_message(door: Door) -> None:
    """Upright, without metadata, an artifact of the subject: whatever erases or expires those has it, too."""
    turned_right = Image.Exif()
    turned_right[ExifTags.Base.Orientation] = 6
    turned = encoded(picture(600, 700), "JPEG", exif=turned_right)
    door.store.put("inbox/pose.jpg", turned, "image/jpeg")
    image = {"key": "inbox/pose.jpg", "sha256": sha256(turned)}
    door.publish(job_id="job-1", recipe="portrait-posed", images={"pose": image})
    step = door.step()
    (pose,), (photo,) = step.artifacts["request.pose"], step.artifacts["request.photos"]
    assert pose.key.startswith("subjects/dr-1/photo/")
    assert pose != photo
    with Image.open(BytesIO(door.store.blobs[pose.key])) as plain:
        assert (plain.format, plain.size, dict(plain.getexif())) == ("PNG", (700, 600), {})


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"scenario": "consultent"}, "scenario", "consultant"),
        ({"photography_style": "cinematik"}, "photography_style", "cinematic"),
        ({"recipe": "portrat"}, "recipe", "Did you mean portrait or "),
        ({"engine": "portible"}, "engine", "Did you mean portable?"),
        ({"overrides": {"refine": {"grain": 99.0}}}, "overrides.refine.grain", "less than or equal to 4"),
        ({"overrides": {"refine": {"grane": 1.0}}}, "overrides.refine.grane", "Did you mean grain"),
        ({"photos": [{"key": "inbox/none.png", "sha256": "a" * 64}]}, "photos[1]", "nothing at inbox/none.png"),
        ({"photos": [{"key": "inbox/a.png", "sha256": "a" * 64}]}, "photos[1]", "digest"),
        ({"images": {"pose": {"key": "inbox/a.png", "sha256": "a" * 64}}}, "images.pose", "reads no image"),
        ({"recipe": "portrait-posed"}, "images.pose", "the recipe 'portrait-posed' reads pose"),
        ({**POSED, "images": {"pose": {"key": "inbox/no.png", "sha256": "a" * 64}}}, "images.pose", "nothing at"),
        ({**POSED, "images": {"pose": {"key": "inbox/a.png", "sha256": "a" * 64}}}, "images.pose", "digest"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_with_field_finding_and_mend(
    door: Door, changes: dict[str, Any], field: str, words: str
) -> None:
    door.publish(job_id="job-1", **changes)
    event = door.event()
    assert event.kind == "refused"
    assert event.error is not None
    assert event.error.field == field
    assert words in f"{event.error.message} {event.error.hint}"
    assert door.job("job-1").state == "refused"
    assert [door.broker.depth(queue) for queue in work_queues("identity")] == [0, 0]


def test_consent_is_demanded_where_the_deployment_demands_it(door: Door) -> None:
    door.defaults[0] = GenerationDefaults(consent_required=True)
    door.publish(job_id="job-1")
    assert door.event().kind == "refused"
    door.publish(job_id="job-2", consent={"basis": "written consent"})
    assert door.event().kind == "accepted"


def test_defaults_are_asked_for_at_each_job(door: Door) -> None:
    door.defaults[0] = GenerationDefaults(overrides={"refine": {"grain": 0.0}})
    door.publish()
    assert next(step for step in door.step().steps if step.name == "refine").params["grain"] == 0.0


def test_the_same_key_twice_is_one_job(door: Door) -> None:
    door.publish(idempotency_key="order-7")
    first = door.step()
    door.publish(idempotency_key="order-7")
    assert door.event().job_id == door.event().job_id == first.job_id
    assert len(door.jobs.recent()) == 1


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"subject": 5}', b"\xff\xfe"])
def test_a_malformed_request_goes_to_the_dead_letters_with_its_reason(door: Door, body: bytes) -> None:
    door.publish_body(body)
    letter = door.dead_letter(INTAKE_KEY)
    assert letter.error.kind == "InvalidInput"
    assert letter.body == body.decode(errors="replace")
    door.publish(job_id="job-1")
    assert door.step().job_id == "job-1", "the consumer lives on"


def test_a_malformed_event_goes_to_the_dead_letters_and_the_journal_lives_on(door: Door) -> None:
    door.broker.publish(Outgoing(EVENTS, "job.x.y", b"nonsense", "bad"))
    assert door.dead_letter(JOURNAL).error.kind == "InvalidInput"


def test_a_store_that_is_away_for_however_long_costs_time_and_no_job(door: Door) -> None:
    """More failures than the policy has attempts: what is away is waited for, and counts as none."""
    door.store.trouble = [Transient("the store is away")] * 6
    door.publish(job_id="job-1")
    assert door.step().job_id == "job-1"
    assert door.store.asked.count("inbox/is-the-store-there") == 3


def test_trouble_with_one_photo_only_does_not_hold_up_the_other_requests(door: Door) -> None:
    """The store answers, so the request waits on a retry queue; when it has been tried often enough it is kept."""
    door.store.put("inbox/b.png", b"whatever", "image/png")
    door.store.broken["inbox/b.png"] = Transient("cut short")
    door.publish(job_id="job-1", photos=[{"key": "inbox/b.png", "sha256": "a" * 64}])
    door.publish(job_id="job-2")
    assert door.step().job_id == "job-2"
    letter = door.dead_letter(INTAKE_KEY)
    assert (letter.error.kind, letter.attempts) == ("Transient", 3)
    assert (letter.job_id, letter.caller, letter.subject) == ("job-1", "anonymous", "dr-1")
    assert letter.body is not None
    assert json.loads(letter.body)["job_id"] == "job-1"


def test_a_caller_is_told_when_a_request_is_given_up_and_may_submit_it_again(door: Door) -> None:
    """No job is noted, so nothing stands in the way of the same job id."""
    door.store.broken["inbox/a.png"] = Permanent("no right to read")
    door.publish(job_id="job-1")
    event = door.event()
    assert (event.kind, event.job_id) == ("dead", "job-1")
    assert event.error is not None
    assert event.error.message == "no right to read"
    assert door.jobs.get("job-1") is None
    door.store.broken.clear()
    door.publish(job_id="job-1")
    assert door.event().kind == "accepted"


def test_another_caller_s_job_id_is_taken_and_its_owner_hears_nothing(door: Door) -> None:
    door.publish(job_id="job-1", caller="alice")
    assert door.event().kind == "accepted"
    door.publish(job_id="job-1", caller="mallory")
    letter = door.dead_letter(INTAKE_KEY)
    assert (letter.error.field, letter.error.kind) == ("job_id", "InvalidInput")
    assert door.job("job-1").caller == "alice"
    assert door.ear.receive(0) is None


def test_a_job_that_was_refused_is_refused_again_in_the_same_words(door: Door) -> None:
    """And under the same event id, so that journals keep it once."""
    door.publish(job_id="job-1", scenario="nowhere")
    first = door.event()
    door.publish(job_id="job-1", scenario="consultant")
    again = door.event()
    assert (again.kind, again.event_id) == ("refused", first.event_id)
    assert again.error == first.error


def test_an_accepted_job_is_safe_though_the_broker_takes_no_step(tmp_path: Path) -> None:
    """Accepted by a gateway that could publish nothing; the next one releases it."""
    with opened(tmp_path, ("intake",)) as door:
        door.publish(job_id="job-1")
        assert door.event().kind == "accepted"
        assert door.job("job-1").released_at is None
    with opened(tmp_path, ("releaser",)) as door:
        assert door.step().job_id == "job-1"


def test_requests_beyond_the_limit_are_told_how_long_to_wait_and_become_no_job(tmp_path: Path) -> None:
    with opened(tmp_path, ("intake", "journal"), limits=(100, 2)) as door:
        for number in range(3):
            door.publish(job_id=f"job-{number}", caller="acme")
        door.publish(job_id="other", caller="somebody-else")
        told = [door.event() for _ in range(4)]
        assert [event.kind for event in told] == ["accepted", "accepted", "refused", "accepted"]
        error = told[2].error
        assert error is not None
        assert (error.kind, error.hint) == ("ResourceExhausted", "Try again in 60 seconds.")
        assert door.jobs.get("job-2") is None


def test_a_request_that_was_turned_away_may_be_submitted_again_though_the_journal_lags(tmp_path: Path) -> None:
    """The journal hears of the refusal only after the job was accepted, and leaves the job alone."""
    with opened(tmp_path, ("intake",), limits=(1, 1)) as door:
        door.publish(job_id="job-1")
        door.publish(job_id="job-2")
        assert [door.event().kind for _ in range(2)] == ["accepted", "refused"]
    with opened(tmp_path, ("intake",)) as door:
        door.publish(job_id="job-2")
        assert door.event().kind == "accepted"
    refused = Outgoing(EVENTS, "job.job-2.refused", told_of("job-2"), "late", {NO_JOB_HEADER: "1"})
    with opened(tmp_path, ("journal",)) as door:
        door.broker.publish(refused)
        door.broker.publish(Outgoing(EVENTS, "job.job-2.refused", b"nonsense", "after it"))
        assert door.dead_letter(JOURNAL).body == "nonsense"
        assert door.job("job-2").state == "accepted"


def told_of(job_id: str) -> bytes:
    event = {
        "event_id": "late",
        "kind": "refused",
        "job_id": job_id,
        "caller": "anonymous",
        "at": "2026-11-20T06:00:00Z",
        "worker": "gateway",
        "error": {"kind": "ResourceExhausted", "type": "NoRoom", "message": "full", "hint": "Try again."},
    }
    return json.dumps(event).encode()


def test_a_waiting_job_that_is_cancelled_is_never_released(tmp_path: Path) -> None:
    with opened(tmp_path, ("intake",)) as door:
        door.publish(job_id="job-1")
        door.publish(job_id="job-2")
        door.cancel("job-1")
        assert [door.event().kind for _ in range(3)] == ["accepted", "accepted", "cancelled"]
        assert door.job("job-1").state == "cancelled"
    with opened(tmp_path, ("releaser",)) as door:
        assert door.step().job_id == "job-2"


def test_a_cancellation_counts_though_it_came_while_no_gateway_ran(tmp_path: Path) -> None:
    """It lies in the intake's queue, behind the request that it means."""
    with closing(EmbeddedBroker("no-gateway")):
        with opened(tmp_path, (), broker=EmbeddedBroker("no-gateway")) as door:
            door.publish(job_id="job-1")
            door.cancel("job-1")
            door.cancel("unknown")
        with opened(tmp_path, ("intake",), broker=EmbeddedBroker("no-gateway")) as door:
            assert [door.event().kind for _ in range(2)] == ["accepted", "cancelled"]
            assert door.job("job-1").state == "cancelled"
