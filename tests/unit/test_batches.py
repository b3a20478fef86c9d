"""Batches: filed as one, fanned out to the jobs that single requests would make, told of as one, ended once."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.gateway.batches import Throttle, batch_job_id, jobs_in, jobs_of
from shared.broker.embedded import EmbeddedBroker
from shared.broker.topology import BATCH_KEY, INTAKE_KEY
from shared.contracts.base import Identifier, Name
from shared.contracts.batch import BatchEvent, BatchRequest, BatchSubject
from shared.contracts.errors import Transient
from shared.contracts.event import Event
from shared.contracts.request import ImageRef, PhotoRef
from shared.storage.digest import sha256
from tests.contract.jobs_samples import event
from tests.unit.gateway_door import PATIENCE_S, PHOTO, Door, opened

SCENARIOS = ("consultant", "speaker", "research")


def written_in(first: str, then: str) -> st.SearchStrategy[str]:
    """Words of 1 to 64 characters. A regular expression would say the same, and take more than twice as long."""
    return st.builds(str.__add__, st.sampled_from(first), st.text(first + then, max_size=63))


IDENTIFIERS = written_in(ascii_letters + digits, "._-")
NAMES = written_in(ascii_lowercase + digits, "_-")
GOOD = PhotoRef(key="inbox/a.png", sha256=sha256(PHOTO))
BAD = PhotoRef(key="inbox/none.png", sha256="a" * 64)


def batch(*subjects: str, bad: tuple[str, ...] = (), **fields: Any) -> BatchRequest:
    them = tuple(BatchSubject(subject=name, photos=(BAD if name in bad else GOOD,)) for name in subjects)
    return BatchRequest(**{"batch_id": "autumn", "caller": "acme", "subjects": them, "scenarios": SCENARIOS, **fields})


@settings(max_examples=50)
@given(IDENTIFIERS, IDENTIFIERS, NAMES)
def test_a_job_s_id_is_an_identifier_and_always_the_same(batch_id: str, subject: str, scenario: str) -> None:
    made = batch_job_id(batch_id, subject, scenario)
    assert TypeAdapter(Identifier).validate_python(made) == made
    assert TypeAdapter(Name).validate_python(scenario) == scenario
    assert batch_job_id(batch_id, subject, scenario) == made


@settings(max_examples=50)
@given(st.tuples(IDENTIFIERS, IDENTIFIERS, NAMES), st.tuples(IDENTIFIERS, IDENTIFIERS, NAMES))
def test_different_jobs_have_different_ids(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (batch_job_id(*one) == batch_job_id(*other)) == (one == other)


def test_each_job_asks_for_what_the_batch_asks_for() -> None:
    wanted = batch("dr-1", "dr-2", custom_prompt="autumn light", seed=7, overrides={"refine": {"grain": 0.1}})
    jobs = jobs_of(wanted, 1)
    assert [request.scenario for request in jobs.values()] == list(SCENARIOS)
    for job_id, request in jobs.items():
        assert (request.job_id, request.batch_id, request.subject) == (job_id, "autumn", "dr-2")
        assert (request.caller, request.priority, request.seed) == ("acme", "bulk", 7)
        assert (request.custom_prompt, request.overrides) == ("autumn light", {"refine": {"grain": 0.1}})


def image(name: str, *, shared: bool = False) -> ImageRef:
    return ImageRef(key=f"inbox/{name}.png", sha256="d" * 64, shared=shared)


def test_the_nearest_image_of_a_name_goes_before_and_what_is_for_several_is_shared() -> None:
    """The doctor's own before the scenario's, the scenario's before the batch's."""
    doctor = BatchSubject(subject="dr-1", photos=(GOOD,), images={"style": image("own")})
    wanted = batch("dr-2", images={"pose": image("all"), "style": image("all")}).model_copy(
        update={"scenario_images": {"speaker": {"pose": image("speaker")}}}
    )
    wanted = wanted.model_copy(update={"subjects": (*wanted.subjects, doctor)})
    given = {(one.subject, one.scenario): one.images for number in (0, 1) for one in jobs_of(wanted, number).values()}
    for_all, speaker = image("all", shared=True), image("speaker", shared=True)
    assert given["dr-2", "research"] == {"pose": for_all, "style": for_all}
    assert given["dr-2", "speaker"] == {"pose": speaker, "style": for_all}
    assert given["dr-1", "consultant"] == {"pose": for_all, "style": image("own")}
    assert given["dr-1", "speaker"] == {"pose": speaker, "style": image("own")}


def test_what_is_named_twice_is_one_job() -> None:
    assert jobs_in(batch("dr-1", "dr-1", scenarios=("speaker", "speaker"))) == 1
    assert len(jobs_of(batch("dr-1", scenarios=("speaker", "speaker")), 0)) == 1


def test_the_more_telling_costs_the_more_seldom_it_is_done() -> None:
    seconds = [0.0]
    throttle = Throttle(lambda: seconds[0])
    assert throttle.is_due("a")
    throttle.told("a", cost_s=0.001)
    assert not throttle.is_due("a")
    assert throttle.is_due("b")
    seconds[0] = 1.0
    assert throttle.is_due("a")
    throttle.told("a", cost_s=1.0)
    seconds[0] = 50.9
    assert not throttle.is_due("a")
    seconds[0] = 51.0
    assert throttle.is_due("a")


class Follower:
    """Files batches and hears what is told of them."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.jobs: list[Event] = []
        self.told: list[BatchEvent] = []

    def file(self, wanted: BatchRequest) -> None:
        self.door.publish_body(wanted.to_json(), BATCH_KEY)

    def until(self, kind: str) -> BatchEvent:
        """Hear until an event of that kind comes."""
        while True:
            delivery = self.door.ear.receive(PATIENCE_S)
            assert delivery is not None, f"no {kind} came, but {[told.kind for told in self.told]}"
            if delivery.routing_key.startswith("batch."):
                self.told.append(BatchEvent.from_json(delivery.body))
                if self.told[-1].kind == kind:
                    return self.told[-1]
            elif delivery.routing_key.startswith("job."):
                self.jobs.append(Event.from_json(delivery.body))

    def end_all(self, count: int) -> None:
        """Play the workers: end each job that is released, until so many have ended."""
        for number in range(count):
            step = self.door.step()
            kind = "expired" if number % 2 else "cancelled"
            self.door.tell(
                self.jobs[0].model_copy(update={"event_id": f"end-{step.job_id}", "kind": kind, "job_id": step.job_id})
            )


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    with opened(tmp_path) as door:
        yield Follower(door)


def test_a_batch_becomes_jobs_progresses_and_ends_once(follower: Follower) -> None:
    follower.file(batch("dr-1", "dr-2"))
    filed = follower.until("filed")
    assert (filed.summary.jobs, filed.summary.fraction, filed.caller) == (6, 0.0, "acme")
    assert [told.kind for told in follower.jobs] == ["accepted"] * 6
    assert {told.batch_id for told in follower.jobs} == {"autumn"}
    follower.end_all(6)
    done = follower.until("done")
    assert (done.summary.jobs, done.summary.fraction, done.summary.closed) == (6, 1.0, True)
    assert done.summary.by_state == {"cancelled": 3, "expired": 3}
    assert [told.kind for told in follower.told].count("progress") == 1, "one a second at most"
    assert [told.kind for told in follower.told][-1] == "done"


def test_a_batch_filed_twice_is_one_batch(follower: Follower) -> None:
    for _ in range(2):
        follower.file(batch("dr-1"))
        follower.until("filed")
    assert follower.told[0].event_id == follower.told[1].event_id
    assert len(follower.door.jobs.recent(100, batch_id="autumn")) == 3
    follower.end_all(3)
    follower.until("done")
    follower.file(batch("dr-1"))
    follower.until("filed")
    follower.file(batch("dr-9", batch_id="after"))
    follower.until("filed")
    assert [told.kind for told in follower.told].count("done") == 1


def test_a_bad_subject_and_a_bad_scenario_refuse_their_jobs_and_not_the_batch(follower: Follower) -> None:
    follower.file(batch("dr-1", "dr-2", bad=("dr-2",), scenarios=("consultant", "nowhere", "speaker")))
    follower.until("filed")
    states = {(job.subject, job.request.scenario): job for job in follower.door.jobs.recent(9) if job.request}
    refused = {place: job.error.field for place, job in states.items() if job.error}
    assert refused == {
        ("dr-1", "nowhere"): "scenario",
        ("dr-2", "consultant"): "photos[1]",
        ("dr-2", "nowhere"): "scenario",
        ("dr-2", "speaker"): "photos[1]",
    }
    assert {job.state for place, job in states.items() if place not in refused} == {"accepted"}


def test_a_batch_that_is_refused_altogether_is_over_at_once(follower: Follower) -> None:
    follower.file(batch("dr-2", bad=("dr-2",)))
    assert follower.until("done").summary.by_state == {"refused": 3}
    assert [told.kind for told in follower.told if told.kind != "progress"] == ["filed", "done"]


def test_the_photos_of_a_subject_are_looked_at_once_whether_they_are_good_or_bad(follower: Follower) -> None:
    follower.file(batch("dr-1", "dr-2", bad=("dr-2",)))
    follower.until("filed")
    assert [key for key in follower.door.store.asked if key.startswith("inbox/")] == [GOOD.key, BAD.key]


def test_the_images_of_a_batch_are_looked_at_once_for_each_subject(follower: Follower) -> None:
    """Each subject has a copy of its own, which goes with it."""
    pose = GOOD.model_dump(exclude={"face"})
    follower.file(batch("dr-1", "dr-2", recipe="portrait-posed", images={"pose": ImageRef(**pose)}))
    assert follower.until("filed").summary.by_state == {"accepted": 6}
    assert [key for key in follower.door.store.asked if key.startswith("inbox/")] == [GOOD.key] * 4
    for step in (follower.door.step() for _ in range(6)):
        assert step.artifacts["request.pose"][0].key.startswith(f"subjects/{step.subject}/photo/")


def test_a_batch_in_parts_ends_when_the_last_part_has(follower: Follower) -> None:
    follower.file(batch("dr-1", part=1, parts=2))
    follower.until("filed")
    follower.end_all(3)
    follower.file(batch("dr-2", part=2, parts=2))
    follower.until("filed")
    assert "done" not in [told.kind for told in follower.told]
    follower.end_all(3)
    assert follower.until("done").summary.jobs == 6


def test_the_jobs_of_a_batch_may_be_over_before_it_is_filed(tmp_path: Path) -> None:
    """A gateway that died in the middle of a batch: its first jobs ran to their end before the rest was taken in."""
    with closing(EmbeddedBroker("half-a-batch")):
        with opened(tmp_path, ("intake",), broker=EmbeddedBroker("half-a-batch")) as door:
            half = batch("dr-1", scenarios=SCENARIOS[:1])
            Follower(door).file(half.model_copy(update={"batch_id": "other"}))
            (job_id,) = jobs_of(half, 0)
            door.publish_body(jobs_of(half, 0)[job_id].to_json())
            assert door.event().kind == "accepted"
            assert door.event().kind == "accepted"
            door.cancel(job_id)
            assert door.event().kind == "cancelled"
        with opened(tmp_path, ("intake",), broker=EmbeddedBroker("half-a-batch")) as door:
            follower = Follower(door)
            follower.file(half)
            assert follower.until("done").summary.by_state == {"cancelled": 1}


def test_a_batch_goes_on_where_a_store_that_was_away_stopped_it(follower: Follower) -> None:
    follower.door.store.trouble = [Transient("away")] * 5
    follower.file(batch("dr-1"))
    assert follower.until("filed").summary.jobs == 3


def test_a_batch_that_cannot_be_taken_in_is_kept_with_its_reason(follower: Follower) -> None:
    follower.door.store.broken[GOOD.key] = Transient("cut short")
    follower.file(batch("dr-1"))
    letter = follower.door.dead_letter(INTAKE_KEY)
    assert (letter.error.kind, letter.attempts) == ("Transient", 3)
    assert letter.body is not None
    assert BatchRequest.from_json(letter.body) == batch("dr-1")


def test_a_batch_that_is_none_is_kept_with_its_reason(follower: Follower) -> None:
    follower.door.publish_body(b'{"batch_id": "autumn", "subjects": [], "scenarios": ["speaker"]}', BATCH_KEY)
    assert follower.door.dead_letter(INTAKE_KEY).error.field == "subjects"


def test_a_single_request_overtakes_a_batch_that_is_being_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake works on a batch for a second at most, then looks what else has come; here for no time at all."""
    monkeypatch.setattr("services.gateway.fan_out.SLICE_S", 0.0)
    with closing(EmbeddedBroker("overtaken")):
        with opened(tmp_path, (), broker=EmbeddedBroker("overtaken")) as door:
            Follower(door).file(batch(*(f"dr-{number}" for number in range(5))))
            door.publish(job_id="single")
        with opened(tmp_path, ("intake",), broker=EmbeddedBroker("overtaken")) as door:
            follower = Follower(door)
            follower.until("filed")
            order = [told.job_id for told in follower.jobs]
            assert len(order) == 16
            assert order.index("single") <= 3


def test_a_batch_for_which_there_is_no_room_waits_and_is_not_refused(tmp_path: Path) -> None:
    """Its first part fills the room; when that was released, the rest is taken in by itself."""
    with opened(tmp_path, ("intake", "releaser", "journal"), window=1, limits=(4, 4)) as door:
        follower = Follower(door)
        ended = threading.Thread(target=_end_as_released, args=(door, 9))
        follower.file(batch("dr-1", "dr-2", "dr-3"))
        ended.start()
        done = follower.until("done")
        ended.join(PATIENCE_S)
        assert done.summary.by_state == {"expired": 9}
        assert {told.kind for told in follower.jobs} == {"accepted", "expired"}


def _end_as_released(door: Door, count: int) -> None:
    for _ in range(count):
        step = door.step()
        job = door.job(step.job_id)
        ended = event("expired", job_id=job.job_id, batch_id=job.batch_id)
        door.tell(ended)
