"""The embedded pipeline after its process was killed: jobs go on, and none can end the process for ever."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.gateway.resume import crashes_of, resume
from shared.broker.embedded import EmbeddedBroker
from shared.broker.topology import topology, work_queues
from shared.contracts.event import Event
from shared.contracts.step import StepMessage
from shared.jobs.port import JobStore, LetterFilter
from shared.worker.retry import RetryPolicy, RetryRule
from tests.contract.jobs_samples import event, job, record_of
from tests.unit.job_files import open_jobs
from tests.unit.test_jobs_journal_gate import GATE, MESSAGE, back, gated
from tests.unit.test_jobs_journal_gate import told as news

POLICY = RetryPolicy(rules={"WorkerCrashed": RetryRule(attempts=3)})


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as store:
        yield store


def released(jobs: JobStore, job_id: str, *events: Event) -> None:
    jobs.add(job(job_id))
    jobs.release("interactive", 99, lambda _: None)
    for told in events:
        jobs.record(told)


def restart(jobs: JobStore) -> list[str]:
    """A new process takes the jobs up; the ids of those that go on."""
    with closing(EmbeddedBroker()) as broker:
        broker.declare(topology())
        count = resume(broker, jobs, POLICY, "w")
        subscription = broker.subscribe(*work_queues("qa"))
        found = []
        while (delivery := subscription.receive(0)) is not None:
            found.append(str(delivery.message_id).split(".", maxsplit=1)[0])
            delivery.ack()
    assert count == len(found)
    return found


def test_what_was_released_goes_on_and_what_waits_or_has_ended_does_not(jobs: JobStore) -> None:
    """What waits is the releaser's."""
    released(jobs, "job-1")
    released(jobs, "job-2", event("done", job_id="job-2"))
    jobs.add(job("job-3"))
    assert restart(jobs) == ["job-1"]


@pytest.mark.parametrize(("crashes", "attempts"), [(2, 4), (3, 1)], ids=["tried-again", "given-up"])
def test_a_further_attempt_that_ends_the_process_again_and_again_is_given_up_for_those_before(
    jobs: JobStore, crashes: int, attempts: int
) -> None:
    """The job goes through the attempts that are finished, whose every step is found, and makes no more."""
    jobs.add(gated())
    jobs.release("interactive", 99, lambda _: None)
    for event_told in (news("finished", "encode", record=record_of("encode")), back(1), news("started", "base", 1)):
        jobs.record(event_told)
    with closing(EmbeddedBroker()) as broker:
        broker.declare(topology())
        for _ in range(crashes):
            assert resume(broker, jobs, POLICY, "w") == 1
            jobs.record(news("started", "base", 1, attempt=jobs_attempts(jobs) + 1))
        subscription = broker.subscribe(*work_queues("qa"))
        messages = []
        while (delivery := subscription.receive(0)) is not None:
            messages.append(StepMessage.from_json(delivery.body))
            delivery.ack()
    assert messages[-1].gate is not None
    assert messages[-1].gate.attempts == attempts
    standing = jobs.get("job-1")
    assert standing is not None
    assert standing.state == "running"
    letters = [filed.letter for filed in jobs.letters(LetterFilter())]
    assert [letter.step for letter in letters] == (["base"] if crashes == 3 else [])
    assert standing.first_message == MESSAGE, "a replay may make all attempts"


def test_a_job_whose_finished_attempts_end_the_process_too_is_given_up_in_the_end(jobs: JobStore) -> None:
    """As where a manifest of theirs is lost, so that their steps are run again: no start of the pipeline is in vain."""
    jobs.add(gated())
    jobs.release("interactive", 99, lambda _: None)
    for told in (news("finished", "encode", record=record_of("encode")), back(1), news("started", "base", 1)):
        jobs.record(told)
    starts = 0
    with closing(EmbeddedBroker()) as broker:
        broker.declare(topology())
        while starts < 20 and resume(broker, jobs, POLICY, "w"):
            starts += 1
    assert starts == 5, "twice tried again, and thrice gone on with what was finished"
    standing = jobs.get("job-1")
    assert standing is not None
    assert standing.state == "dead"
    assert len(jobs.letters(LetterFilter())) == 1


def test_a_run_that_began_in_a_further_attempt_and_has_finished_none_is_given_up(jobs: JobStore) -> None:
    """Nothing that it could go through is finished: it would run the very step that ends the process."""
    gate = GATE.model_copy(update={"finished": 1})
    jobs.add(job("job-1", first_message=MESSAGE.model_copy(update={"gate": gate})))
    jobs.release("interactive", 99, lambda _: None)
    jobs.record(news("finished", "encode", record=record_of("encode")))
    jobs.record(news("started", "base", 1, attempt=3))
    with closing(EmbeddedBroker()) as broker:
        broker.declare(topology())
        assert resume(broker, jobs, POLICY, "w") == 0
    standing = jobs.get("job-1")
    assert standing is not None
    assert standing.state == "dead"


def jobs_attempts(jobs: JobStore) -> int:
    job = jobs.get("job-1")
    assert job is not None
    return job.steps[1].attempts


def test_a_step_that_ends_the_process_again_and_again_goes_to_the_dead_letters(jobs: JobStore) -> None:
    """Else every start of the pipeline would end in the same crash."""
    finished = event("finished", "encode", record=record_of("encode"))
    released(jobs, "job-1", finished, event("started", "base"))
    released(jobs, "job-2")
    goes_on = []
    for _ in range(4):
        goes_on.append(restart(jobs))
        jobs.record(event("started", "base"))
    assert goes_on == [["job-1", "job-2"], ["job-1", "job-2"], ["job-2"], ["job-2"]]
    dead = jobs.get("job-1")
    assert dead is not None
    assert dead.state == "dead"
    assert dead.error is not None
    assert dead.error.message == "the process ended 3 times while it was at step 'base'"
    (filed,) = jobs.letters(LetterFilter())
    assert (filed.letter.job_id, filed.letter.step, filed.letter.attempts) == ("job-1", "base", 3)
    assert filed.letter.message == dead.first_message


def test_a_job_that_gets_on_is_not_counted_against(jobs: JobStore) -> None:
    """Each step has its own count."""
    released(jobs, "job-1", event("started", "encode"))
    for step in ("encode", "base"):
        for _ in range(2):
            jobs.record(event("started", step))
            assert restart(jobs) == ["job-1"]
        jobs.record(event("finished", step, record=record_of(step)))
    assert restart(jobs) == ["job-1"]


def test_waiting_for_a_step_to_begin_is_no_crash() -> None:
    assert crashes_of(job()) == 0
