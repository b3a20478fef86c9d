"""Erasing a subject: nothing of the person is left in the store, the database, the queues or the folder of results."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.gateway.erase import ErasureReport, erase_subject
from services.gateway.mentions import Mentions
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import (
    BATCH_KEY,
    CONTROL,
    EVENTS,
    INTAKE,
    INTAKE_KEY,
    dead_queue,
    queue_name,
    retry_queue,
    topology,
)
from shared.contracts.base import now
from shared.contracts.batch import BatchRequest, BatchSubject
from shared.contracts.beat import Beat, InHand
from shared.contracts.control import Control
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.event import Event
from shared.contracts.request import ImageRef, PhotoRef
from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore
from shared.worker.dispatch import step_outgoing
from tests.contract.jobs_samples import DAWN, TROUBLE, event, first_message, job, request
from tests.fakes import MemoryStore
from tests.unit.gateway_door import PATIENCE_S, opened
from tests.unit.job_files import put_jobs

WHO = "dr-gone"
OTHER = "dr-here"
LADDER_MS = (60_000, 300_000)
HOUSE = topology(retry_ladder_ms=LADDER_MS)


def photo(name: str) -> PhotoRef:
    return PhotoRef(key=f"inbox/{name}.png", sha256="a" * 64)


@dataclass
class Place:
    """Broker, store and job store with something of two people, and a clock that only pauses move."""

    broker: EmbeddedBroker
    jobs: JobStore
    folder: Path
    control: Subscription
    store: MemoryStore = field(default_factory=MemoryStore)
    seconds: float = 0.0
    pauses: int = 0

    def erase(self, **options: Any) -> ErasureReport:
        return erase_subject(
            WHO,
            self.broker,
            self.store,
            self.jobs,
            queues=HOUSE.queue_names,
            results=self.folder / "results",
            pause=options.pop("pause", self.pause),
            clock=lambda: self.seconds,
            **options,
        )

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        self.pauses += 1

    def fill(self, subject: str) -> None:
        """A job done, one running, one waiting; artifacts; messages in queues of all kinds; a picture."""
        for number, released in ((1, True), (2, True), (3, False)):
            job_id = f"{subject}-{number}"
            message = first_message(job_id).model_copy(update={"subject": subject})
            wish = request(subject=subject, photos=(photo(subject),))
            self.jobs.add(job(job_id, subject=subject, request=wish, first_message=message, batch_id="autumn"))
            if released:
                self.jobs.release("interactive", 99, lambda _: None)
        self.jobs.record(event("done", job_id=f"{subject}-1"))
        for kind in ("photo", "identity", "intermediate", "result", "verdict", "manifests"):
            self.store.put(f"subjects/{subject}/{kind}/{subject}.bin", b"x", "application/octet-stream")
        self.store.put(photo(subject).key, b"x", "image/png")
        message = first_message(f"{subject}-2").model_copy(update={"subject": subject})
        letter = DeadLetter(
            letter_id=f"letter-{subject}",
            fingerprint="0123456789abcdef",
            queue="doctorgen.qa.bulk",
            died_at=now(),
            worker="w",
            subject=subject,
            job_id=f"{subject}-1",
            attempts=1,
            error=TROUBLE,
            message=message,
        )
        self.jobs.file_letter(letter)
        raw = letter.model_copy(
            update={"letter_id": f"raw-{subject}", "subject": None, "message": None, "job_id": None}
        )
        raw = raw.model_copy(
            update={"body": request(subject=subject, photos=(photo(f"{subject}-2"),)).to_json().decode()}
        )
        self.store.put(photo(f"{subject}-2").key, b"x", "image/png")
        told = event("started", "encode", job_id=f"{subject}-2").model_copy(update={"subject": subject})
        for outgoing in (
            step_outgoing(message),
            Outgoing("", retry_queue("swap", "bulk", 60_000), message.to_json(), "retry"),
            Outgoing("", dead_queue("qa"), letter.to_json(), "letter"),
            Outgoing("", dead_queue(INTAKE_KEY), raw.to_json(), "raw"),
            Outgoing(INTAKE, INTAKE_KEY, request(subject=subject, photos=(photo(subject),)).to_json(), "request"),
            Outgoing(EVENTS, told.routing_key, told.to_json(), "event"),
        ):
            self.broker.publish(outgoing)
        (self.folder / "results").mkdir(exist_ok=True)
        (self.folder / "results" / f"speaker-{subject}-1.png").write_bytes(b"picture")

    def traces(self, subject: str) -> list[str]:
        """Every place that still speaks of a subject."""
        found = [key for key in self.store.blobs if subject in key]
        found += [job.job_id for job in self.jobs.recent(99) if job.subject == subject]
        found += [path.name for path in self.folder.glob("results/*") if subject in path.name]
        for queue in HOUSE.queue_names:
            bodies: list[bytes] = []
            self.broker.sweep(queue, lambda body, bodies=bodies: bodies.append(body) is not None)  # type: ignore[misc]
            found += [queue for body in bodies if subject.encode() in body]
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    put_jobs(tmp_path / "jobs.sqlite")
    with (
        closing(EmbeddedBroker()) as broker,
        closing(open_job_store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")) as jobs,
    ):
        broker.declare(HOUSE)
        with closing(broker.listen(CONTROL, ("",))) as control:
            place = Place(broker, jobs, tmp_path, control)
            place.fill(OTHER)
            place.fill(WHO)
            yield place


def test_everything_of_the_subject_goes_and_nothing_of_anybody_else(place: Place) -> None:
    others = place.traces(OTHER)
    assert len(place.traces(WHO)) > 15
    report = place.erase()
    assert [trace for trace in place.traces(WHO) if trace != queue_name(INTAKE_KEY)] == []
    assert place.traces(OTHER) == others
    kinds = ("photo", "identity", "intermediate", "result", "verdict", "manifests")
    assert report.objects == {**dict.fromkeys(kinds, 1), "inbox": 2}
    assert report.rows["jobs"] == 3
    assert report.rows["letters"] == 1
    assert report.rows["events"] >= 2
    assert report.messages == 8, "the six that were there, and the ends of two jobs on their way to the journal"
    assert (report.pictures, report.still_running) == (1, ())


def test_the_intake_s_queue_keeps_only_the_order_to_erase(place: Place) -> None:
    """It names the subject, and is gone once a gateway has read it."""
    place.erase()
    left = place.broker.subscribe(queue_name(INTAKE_KEY))
    bodies = []
    while (delivery := left.receive(0)) is not None:
        bodies.append(delivery.body)
        delivery.ack()
    left.close()
    assert [body for body in bodies if WHO.encode() in body] == [Control(kind="erase", subject=WHO).to_json()]


def test_workers_are_told_and_followers_hear_the_end(place: Place) -> None:
    with closing(place.broker.listen(EVENTS, ("job.#",))) as ear:
        place.erase()
        ended = [Event.from_json(delivery.body) for _ in range(2) if (delivery := ear.receive(PATIENCE_S))]
    assert {(told.job_id, told.kind) for told in ended} == {(f"{WHO}-2", "cancelled"), (f"{WHO}-3", "cancelled")}
    order = place.control.receive(PATIENCE_S)
    assert order is not None
    assert Control.from_json(order.body) == Control(kind="erase", subject=WHO)


def test_done_again_it_finds_nothing(place: Place) -> None:
    place.erase()
    again = place.erase()
    assert (again.objects, again.rows, again.messages, again.pictures) == ({}, {}, 0, 0)


def beat(place: Place, number: int, holds: str | None) -> None:
    held = (InHand(job_id=holds, step="encode", since=DAWN),) if holds else ()
    at = DAWN.replace(minute=number)
    place.jobs.beat(Beat(worker="w1", stage="qa", at=at, started_at=DAWN, state="idle", in_hand=held), at)


def test_it_waits_until_a_worker_has_dropped_the_subject_s_job(place: Place) -> None:
    """What the worker left meanwhile goes, too."""
    beat(place, 1, f"{WHO}-2")

    def pause(seconds: float) -> None:
        place.pause(seconds)
        if place.pauses == 4:
            place.store.put(f"subjects/{WHO}/intermediate/late.png", b"x", "image/png")
        beat(place, 1 + place.pauses, f"{WHO}-2" if place.pauses < 5 else None)

    report = place.erase(pause=pause)
    assert place.pauses == 5
    assert report.objects["intermediate"] == 2
    assert report.still_running == ()


def test_it_waits_for_two_beats_of_a_worker_that_seems_idle(place: Place) -> None:
    """It may have taken a message since its last beat."""
    beat(place, 1, None)

    def pause(seconds: float) -> None:
        place.pause(seconds)
        beat(place, 1 + place.pauses, None)

    place.erase(pause=pause)
    assert place.pauses == 2


def test_a_worker_that_is_gone_is_not_waited_for_longer_than_it_may_be_silent(place: Place) -> None:
    beat(place, 1, f"{WHO}-2")
    report = place.erase(silent_after_s=10.0)
    assert 10.0 <= place.seconds <= 11.0
    assert report.still_running == ()


def test_after_its_patience_it_says_what_still_runs(place: Place) -> None:
    def pause(seconds: float) -> None:
        place.pause(seconds)
        beat(place, 1 + place.pauses, f"{WHO}-2")

    beat(place, 1, f"{WHO}-2")
    report = place.erase(pause=pause, patience_s=5.0)
    assert report.still_running == (f"{WHO}-2",)
    assert place.traces(WHO) in ([], [queue_name(INTAKE_KEY)])


def test_a_batch_of_several_people_is_kept_for_the_others() -> None:
    """Intake refuses the erased one's part of it; its photos go at once."""
    people = tuple(BatchSubject(subject=name, photos=(photo(name),)) for name in (WHO, OTHER))
    body = BatchRequest(batch_id="autumn", subjects=people, scenarios=("speaker",)).to_json()
    mentions = Mentions(WHO)
    assert mentions.doom(body) is False
    assert mentions.originals == {photo(WHO).key}


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[1]", b"7", b'{"subject": 7}', b'{"subject": "dr-gone2"}'])
def test_what_does_not_name_the_subject_stays(body: bytes) -> None:
    assert Mentions(WHO).doom(body) is False


def image(name: str, *, shared: bool = False) -> ImageRef:
    return ImageRef(key=f"inbox/{name}.png", sha256="a" * 64, shared=shared)


def test_the_images_of_a_subject_go_with_it_and_what_it_shares_with_others_stays(place: Place) -> None:
    """Named by a job, by a request that waits, and by one that was given up, of which only the letter is left."""
    names = ("of-a-job", "waiting", "given-up", "standing-pose")
    for name in names:
        place.store.put(image(name).key, b"x", "image/png")
    wishes = {
        name: request(subject=WHO, images={"start": image(name), "pose": image("standing-pose", shared=True)})
        for name in names
    }
    place.jobs.add(job(f"{WHO}-4", subject=WHO, request=wishes["of-a-job"]))
    place.broker.publish(Outgoing(INTAKE, INTAKE_KEY, wishes["waiting"].to_json(), "waiting"))
    letter = DeadLetter(
        letter_id="given-up",
        fingerprint="0123456789abcdef",
        queue="doctorgen.intake",
        died_at=now(),
        worker="w",
        subject=WHO,
        job_id=f"{WHO}-5",
        attempts=3,
        error=TROUBLE,
        body=wishes["given-up"].to_json().decode(),
    )
    place.jobs.file_letter(letter)
    place.erase()
    assert [name for name in names if image(name).key in place.store.blobs] == ["standing-pose"]


def test_of_a_batch_the_subject_s_own_images_go_and_those_for_all_stay() -> None:
    people = tuple(
        BatchSubject(subject=name, photos=(photo(name),), images={"style": image(f"{name}-2")}) for name in (WHO, OTHER)
    )
    wanted = BatchRequest(batch_id="autumn", subjects=people, scenarios=("speaker",), images={"pose": image("all")})
    mentions = Mentions(WHO)
    mentions.doom(wanted.to_json())
    assert mentions.originals == {photo(WHO).key, image(f"{WHO}-2").key}


@pytest.mark.parametrize("images", [7, [{"key": "inbox/a.png"}], {"pose": "inbox/a.png"}, {"pose": {"key": 7}}])
def test_images_that_are_none_do_not_keep_a_message_from_going(images: object) -> None:
    mentions = Mentions(WHO)
    assert mentions.doom(json.dumps({"subject": WHO, "images": images}))
    assert mentions.originals == set()


def test_photos_outside_the_inbox_are_not_deleted_for_a_message_s_word() -> None:
    """Anyone may publish a request; it must not name other people's artifacts to death."""
    mentions = Mentions(WHO)
    keys = ["subjects/dr-here/photo/a.png", 5, None]
    assert mentions.doom(json.dumps({"subject": WHO, "photos": [{"key": key} for key in keys]}).encode())
    assert mentions.originals == set()


def test_nothing_of_an_erased_subject_is_taken_in_until_it_is_allowed_again(tmp_path: Path) -> None:
    with opened(tmp_path, ("intake", "journal")) as door:
        door.jobs.entomb("dr-1")
        door.publish(job_id="job-1")
        refused = door.event()
        assert (refused.kind, refused.job_id) == ("refused", "job-1")
        assert refused.error is not None
        assert (refused.error.field, refused.error.hint) == (
            "subject",
            "`doctorgen subject allow dr-1` lets it in again.",
        )
        assert door.jobs.get("job-1") is None
        assert not list(door.store.keys("subjects/dr-1/"))
        door.jobs.exhume("dr-1")
        door.publish(job_id="job-1")
        assert door.event().kind == "accepted"


def test_a_batch_goes_on_without_its_erased_subject(tmp_path: Path) -> None:
    with opened(tmp_path, ("intake",)) as door:
        door.jobs.entomb(WHO)
        ref = PhotoRef.model_validate(door.photo)
        people = tuple(BatchSubject(subject=name, photos=(ref,)) for name in (WHO, OTHER))
        wanted = BatchRequest(batch_id="autumn", subjects=people, scenarios=("speaker", "research"))
        door.publish_body(wanted.to_json(), BATCH_KEY)
        told = [door.event() for _ in range(4)]
        assert [(one.subject, one.kind) for one in told] == [(WHO, "refused")] * 2 + [(OTHER, "accepted")] * 2
        assert not list(door.store.keys(f"subjects/{WHO}/"))


def test_an_erasure_in_the_middle_of_a_request_leaves_nothing_of_it(tmp_path: Path) -> None:
    """The subject is erased while its photo is looked at: the job and the photo that come late are removed."""
    with opened(tmp_path, ("intake",)) as door:
        asked = door.store.asked

        class Erasing(list[str]):
            def append(self, key: str) -> None:
                super().append(key)
                door.jobs.entomb("dr-1")

        door.store.asked = Erasing(asked)
        door.publish(job_id="job-1")
        assert door.event().kind == "refused"
        assert door.jobs.get("job-1") is None
        assert not list(door.store.keys("subjects/dr-1/"))
