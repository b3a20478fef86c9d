"""Intake: anyone may publish a request; what is wrong with it is told at once, and nothing accepted is lost."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.stages import OPERATIONS
from services.gateway.defaults import GenerationDefaults
from services.gateway.intake import House, Intake
from services.gateway.journal import Journal
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import EVENTS, INTAKE, INTAKE_KEY, JOURNAL, dead_queue, queue_name, topology
from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import Transient
from shared.contracts.event import Event
from shared.contracts.step import StepMessage
from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore
from shared.prompts.catalogue import load_catalogue
from shared.storage.digest import sha256
from shared.vision.photos import PhotoLimits
from shared.worker.retry import RetryPolicy
from tests.fakes import MemoryStore
from tests.unit.photo_files import encoded, picture

PATIENCE_S = 10.0
POLICY = RetryPolicy(attempts={"Transient": 3}, base_delay_ms=1, ladder_ms=(5, 10))


class FlakyStore(MemoryStore):
    """Fails as often as it is told to."""

    failures = 0

    def get(self, key: str) -> bytes | None:
        if self.failures > 0:
            self.failures -= 1
            raise Transient("the store is away")
        return super().get(key)


@dataclass
class Door:
    broker: EmbeddedBroker
    store: FlakyStore
    jobs: JobStore
    ear: Subscription
    photo: dict[str, str]
    defaults: list[GenerationDefaults]

    def publish(self, **changes: Any) -> None:
        document = {"subject": "dr-1", "photos": [self.photo], "scenario": "consultant", **changes}
        self.publish_body(json.dumps(document).encode())

    def publish_body(self, body: bytes) -> None:
        self.broker.publish(Outgoing(INTAKE, INTAKE_KEY, body, "any"))

    def event(self) -> Event:
        delivery = self.ear.receive(PATIENCE_S)
        assert delivery is not None, "no event came"
        return Event.from_json(delivery.body)

    def first_step(self) -> StepMessage:
        subscription = self.broker.subscribe(queue_name("identity"))
        delivery = subscription.receive(PATIENCE_S)
        assert delivery is not None, "no step came"
        delivery.ack()
        subscription.close()
        return StepMessage.from_json(delivery.body)

    def dead_letter(self, queue: str) -> DeadLetter:
        delivery = self.broker.subscribe(dead_queue(queue)).receive(PATIENCE_S)
        assert delivery is not None, "no dead letter came"
        return DeadLetter.from_json(delivery.body)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    broker = EmbeddedBroker()
    broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
    store, jobs = FlakyStore(), open_job_store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    photo = encoded(picture(600, 700), "PNG")
    store.put("inbox/a.png", photo, "image/png")
    defaults = [GenerationDefaults()]
    catalogue = load_catalogue(None)
    house = House(
        OPERATIONS, lambda name: find_recipe(None, name), lambda: catalogue, lambda: defaults[0], PhotoLimits()
    )
    ear = broker.listen(EVENTS, ("#",))
    loops = (Intake(broker, store, jobs, house, POLICY, "gateway"), Journal(broker, jobs, "gateway"))
    threads = [threading.Thread(target=loop.run) for loop in loops]
    for thread in threads:
        thread.start()
    yield Door(broker, store, jobs, ear, {"key": "inbox/a.png", "sha256": sha256(photo)}, defaults)
    for loop in loops:
        loop.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
    broker.close()
    jobs.close()


def test_an_accepted_request_is_noted_told_and_published_to_its_first_stage(door: Door) -> None:
    door.publish(job_id="job-1")
    step = door.first_step()
    assert (step.job_id, step.step.name, step.recipe) == ("job-1", "identity", "portrait")
    assert door.event().kind == "accepted"
    job = door.jobs.get("job-1")
    assert job is not None
    assert job.first_message == step
    assert [one.step for one in job.steps] == [one.name for one in step.steps]
    (photo,) = step.artifacts["request.photos"]
    assert photo.key.startswith("subjects/dr-1/photo/")
    assert door.store.blobs[photo.key].startswith(b"\x89PNG")


@pytest.mark.parametrize("scenario", load_catalogue(None).scenarios)
def test_every_scenario_s_message_leaves_room_under_16_kib(door: Door, scenario: str) -> None:
    door.publish(scenario=scenario, photos=[door.photo] * 5, custom_prompt="wörds " * 160)
    assert len(door.first_step().to_json()) < MESSAGE_LIMIT_BYTES - 6 * 1024


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"scenario": "consultent"}, "scenario", "consultant"),
        ({"photography_style": "cinematik"}, "photography_style", "cinematic"),
        ({"recipe": "portrat"}, "recipe", "Did you mean portrait?"),
        ({"engine": "portible"}, "engine", "Did you mean portable?"),
        ({"overrides": {"refine": {"grain": 99.0}}}, "overrides.refine.grain", "less than or equal to 4"),
        ({"overrides": {"refine": {"grane": 1.0}}}, "overrides.refine.grane", "Did you mean grain"),
        ({"photos": [{"key": "inbox/none.png", "sha256": "a" * 64}]}, "photos[1]", "nothing at inbox/none.png"),
        ({"photos": [{"key": "inbox/a.png", "sha256": "a" * 64}]}, "photos[1]", "digest"),
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
    job = door.jobs.get("job-1")
    assert job is not None
    assert job.state == "refused"
    assert door.broker.depth(queue_name("identity")) == 0


def test_consent_is_demanded_where_the_deployment_demands_it(door: Door) -> None:
    door.defaults[0] = GenerationDefaults(consent_required=True)
    door.publish(job_id="job-1")
    assert door.event().kind == "refused"
    door.publish(job_id="job-2", consent={"basis": "written consent"})
    assert door.event().kind == "accepted"


def test_defaults_are_asked_for_at_each_job(door: Door) -> None:
    door.defaults[0] = GenerationDefaults(overrides={"refine": {"grain": 0.0}})
    door.publish()
    assert next(step for step in door.first_step().steps if step.name == "refine").params["grain"] == 0.0


def test_the_same_key_twice_is_one_job(door: Door) -> None:
    door.publish(idempotency_key="order-7")
    first = door.first_step()
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
    assert door.first_step().job_id == "job-1", "the consumer lives on"


def test_a_malformed_event_goes_to_the_dead_letters_and_the_journal_lives_on(door: Door) -> None:
    door.broker.publish(Outgoing(EVENTS, "job.x.y", b"nonsense", "bad"))
    assert door.dead_letter(JOURNAL).error.kind == "InvalidInput"


def test_a_store_that_is_away_for_a_while_costs_time_and_no_job(door: Door) -> None:
    door.store.failures = 2
    door.publish(job_id="job-1")
    assert door.first_step().job_id == "job-1"


def test_a_store_that_stays_away_leaves_the_request_in_the_dead_letters(door: Door) -> None:
    door.store.failures = 99
    door.publish(job_id="job-1")
    letter = door.dead_letter(INTAKE_KEY)
    assert letter.error.kind == "Transient"
    assert letter.body is not None
    assert json.loads(letter.body)["job_id"] == "job-1"
