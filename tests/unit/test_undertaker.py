"""The undertaker: whatever dies is filed in the job store, and told of where nobody else could tell."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.broker.port import Outgoing
from shared.broker.topology import INTAKE_KEY, JOURNAL, dead_queue
from shared.contracts.attempt import PinnedGate
from shared.contracts.attempts import Attempts
from shared.contracts.base import now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import Transient
from shared.jobs.port import FiledLetter, JobStore, LetterFilter
from shared.storage.artifacts import store_artifact
from tests.contract.jobs_samples import TROUBLE, first_message, job
from tests.unit.gateway_door import PATIENCE_S, Door, opened
from tests.unit.test_gate import made


class Watched:
    """A job store that says when letters were filed, and that can be away for a while."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self.filed = threading.Semaphore(0)
        self.failures = 0

    def file_letter(self, letter: DeadLetter) -> bool:
        if self.failures:
            self.failures -= 1
            raise Transient("the job store is away")
        new = self._jobs.file_letter(letter)
        self.filed.release()
        return new

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)


class Grave:
    """A gateway with an undertaker and a journal, and the letters that it has filed."""

    def __init__(self, door: Door, watched: Watched) -> None:
        self.door = door
        self.watched = watched

    def bury(self, owner: str, body: bytes) -> None:
        self.door.broker.publish(Outgoing("", dead_queue(owner), body, "x"))

    def filed(self, count: int = 1) -> tuple[FiledLetter, ...]:
        """All letters, once so many were filed."""
        for _ in range(count):
            assert self.watched.filed.acquire(timeout=PATIENCE_S)
        return self.door.jobs.letters(LetterFilter())


@pytest.fixture
def grave(tmp_path: Path) -> Iterator[Grave]:
    kept: list[Watched] = []

    def wrap(jobs: JobStore) -> Any:
        kept.append(Watched(jobs))
        return kept[0]

    with opened(tmp_path, ("undertaker", "journal"), wrap=wrap) as door:
        yield Grave(door, kept[0])


def letter(letter_id: str = "letter-1", **fields: Any) -> DeadLetter:
    return DeadLetter(
        **{
            "letter_id": letter_id,
            "fingerprint": "0123456789abcdef",
            "queue": "doctorgen.qa.interactive",
            "died_at": now(),
            "worker": "w1",
            "attempts": 3,
            "error": TROUBLE,
            **fields,
        }
    )


def test_letters_of_every_stage_of_intake_and_of_the_journal_are_filed(grave: Grave) -> None:
    owners = ("identity", "generate", "swap", "refine", "upscale", "qa", INTAKE_KEY, JOURNAL)
    letters = [letter(f"letter-{owner}") for owner in owners]
    for owner, one in zip(owners, letters, strict=True):
        grave.bury(owner, one.to_json())
    assert {filed.letter.letter_id for filed in grave.filed(len(owners))} == {one.letter_id for one in letters}
    assert [grave.door.broker.depth(dead_queue(owner)) for owner in owners] == [0] * len(owners)


def test_a_letter_that_comes_twice_is_filed_once(grave: Grave) -> None:
    for _ in range(2):
        grave.bury("qa", letter().to_json())
    (filed,) = grave.filed(2)
    assert filed.letter == letter().model_copy(update={"died_at": filed.letter.died_at})


def test_a_job_store_that_is_away_costs_time_and_no_letter(grave: Grave) -> None:
    grave.watched.failures = 3
    grave.bury("qa", letter().to_json())
    assert len(grave.filed()) == 1


def test_a_step_that_the_broker_gave_up_is_wrapped_and_its_job_is_told_dead(grave: Grave) -> None:
    """Consumers died of it without a word, so nobody but the undertaker can tell."""
    grave.door.jobs.add(job("job-1"))
    message = first_message("job-1").model_copy(update={"attempts": 2})
    for _ in range(2):
        grave.bury("qa", message.to_json())
    (filed, *others) = grave.filed(2)
    assert others == [], "the same death, told twice"
    assert (filed.letter.error.kind, filed.letter.error.type) == ("Permanent", "DeliveryLimit")
    assert (filed.letter.queue, filed.letter.job_id) == ("doctorgen.qa.interactive", "job-1")
    assert (filed.letter.step, filed.letter.attempts) == ("encode", 3)
    assert filed.letter.message == message
    event = grave.door.event()
    assert (event.kind, event.job_id, event.step) == ("dead", "job-1", "encode")
    grave.door.broker.publish(Outgoing("doctorgen.events", "job.x.y", b"nonsense", "bad"))
    assert len(grave.filed()) == 2, "the journal has come to what was told after the event"
    assert grave.door.job("job-1").state == "dead"


def test_a_further_attempt_that_the_broker_gave_up_leaves_the_best_so_far(grave: Grave) -> None:
    """As where an error ends it: a picture stands."""
    found = made(1)
    document = Attempts(attempts=(found,)).to_json()
    record = store_artifact(grave.door.store, "doctor-1", "verdict", document, "application/json")
    gate = PinnedGate(
        back_to="base", attempts=3, identity_weight_step=0.1, identity_weight_most=1.2, finished=1, record=record
    )
    grave.door.jobs.add(job("job-1"))
    grave.bury("qa", first_message("job-1").model_copy(update={"gate": gate, "cursor": 1}).to_json())
    grave.filed()
    event = grave.door.event()
    assert (event.kind, event.step) == ("done", "base")
    assert event.result is not None
    assert (event.result.image, event.result.kept) == (found.attempt.image, 1)
    error = (event.result.attempts or ())[-1].error
    assert error is not None
    assert (error.step, error.kind) == ("base", "Permanent")


def test_a_request_that_the_broker_gave_up_keeps_whose_it_was(grave: Grave) -> None:
    """An erasure has to find it."""
    grave.bury(
        INTAKE_KEY,
        b'{"job_id": "job-9", "caller": "acme", "subject": "dr-1", "scenario": "x", "photos": '
        b'[{"key": "inbox/a.png", "sha256": "' + b"a" * 64 + b'"}]}',
    )
    (filed,) = grave.filed()
    assert (filed.letter.job_id, filed.letter.caller, filed.letter.subject) == ("job-9", "acme", "dr-1")
    assert filed.letter.queue == "doctorgen.intake"
    assert filed.letter.body is not None


def test_bytes_that_nobody_can_read_are_kept_as_they_are(grave: Grave) -> None:
    grave.bury("swap", b"\xff\x00nonsense")
    (filed,) = grave.filed()
    assert (filed.letter.body, filed.letter.queue) == ("�\x00nonsense", "doctorgen.swap")
    assert filed.letter.error.type == "DeliveryLimit"


def test_nothing_of_an_erased_subject_is_filed(grave: Grave) -> None:
    grave.door.jobs.entomb("dr-gone")
    grave.bury("qa", letter("letter-1", subject="dr-gone").to_json())
    grave.bury("qa", letter("letter-2", subject="dr-here").to_json())
    assert [filed.letter.letter_id for filed in grave.filed()] == ["letter-2"]
