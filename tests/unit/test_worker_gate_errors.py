"""A further attempt at a picture that ends with an error: the best of those before is delivered, and the error told."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from shared.contracts.attempt import Attempt
from shared.contracts.attempts import Attempts
from shared.contracts.base import now
from shared.contracts.errors import InvalidInput, Permanent, ResourceExhausted, Transient
from shared.contracts.event import Event, JobResult
from shared.contracts.step import Failure
from shared.jobs.journal import apply
from shared.storage.artifacts import store_artifact
from shared.worker.dispatch import Origin
from shared.worker.ending import ended
from shared.worker.limits import WorkerLimits
from shared.worker.operation import Work
from shared.worker.retry import RetryPolicy, RetryRule
from tests import synthetic
from tests.contract.jobs_samples import TROUBLE
from tests.synthetic import QA, REFINE, UPSCALE, AppendParams, gated_message, ran
from tests.unit.test_worker_faults import House, die_of_a_message, held
from tests.unit.test_worker_gate import job_of


@pytest.fixture
def house() -> Iterator[House]:
    ran.clear()
    synthetic.during[0] = lambda _: None
    house = House()
    yield house
    house.close()
    synthetic.during[0] = lambda _: None


def in_attempt(number: int, act: Callable[[Work[AppendParams]], object], word: str = "a") -> None:
    """Let this happen in every run of the step of that word, from that attempt on."""
    runs: list[int] = []

    def happen(work: Work[AppendParams]) -> None:
        if work.params.word == word:
            runs.append(work.seed)
            if len(dict.fromkeys(runs)) >= number:
                act(work)

    synthetic.during[0] = happen


def raising(error: Exception) -> Callable[[Work[AppendParams]], object]:
    def act(_: Work[AppendParams]) -> None:
        raise error

    return act


def result_of(done: Event) -> JobResult:
    assert done.kind == "done", done
    assert done.result is not None
    return done.result


def broken_off(result: JobResult) -> Attempt:
    """The last attempt, which is the one that has come to no picture."""
    *before, last = result.attempts or ()
    assert before
    assert all(one.error is None for one in before)
    assert (last.image, last.verdict, last.passed) == (None, None, False)
    return last


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (InvalidInput("photos", "no face is found", "Give another photo."), "InvalidInput", 1),
        (Permanent("it cannot be"), "Permanent", 1),
        (ZeroDivisionError("a bug"), "Permanent", 1),
        (ResourceExhausted("out of memory"), "ResourceExhausted", 3),
        (Transient("away"), "Transient", 3),
    ],
    ids=["refused", "permanent", "bug", "out-of-memory", "transient"],
)
def test_a_further_attempt_that_ends_with_an_error_leaves_the_best_so_far(
    house: House, error: Exception, kind: str, tries: int
) -> None:
    """Whatever the error is: the picture that stands is the job's, and what became of the other attempt is told."""
    in_attempt(2, raising(error))
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    message = gated_message(house.store)
    house.publish(message)
    result = result_of(house.until_ended())
    last = broken_off(result)
    assert (result.kept, last.number, len(result.attempts or ())) == (1, 2, 2)
    assert last.error is not None
    assert (last.error.step, last.error.kind) == ("one", kind)
    assert last.error.message == (error.found if isinstance(error, InvalidInput) else str(error))
    assert last.error.hint
    assert last.seed != (result.attempts or ())[0].seed
    assert house.store.blobs[result.image.key]
    assert not result.summary.passed
    assert [record.step for record in result.trail] == ["zero", "one", "two", "three"]
    letter = house.dead_letter("refine")
    assert (letter.job_id, letter.step, letter.attempts, letter.error.kind) == ("job-1", "one", tries, kind)
    assert letter.message is not None, "kept with its traceback, for whoever looks after the workers"
    assert letter.message.tried == 1


def test_an_attempt_that_breaks_off_late_is_charged_with_what_it_had_begun(house: House) -> None:
    seen: list[str] = []

    def break_the_second(work: Work[AppendParams]) -> None:
        if work.params.word == "!":
            seen.append("!")
            if len(seen) == 2:
                raise Permanent("it cannot be")

    synthetic.during[0] = break_the_second
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(gated_message(house.store))
    result = result_of(house.until_ended())
    last = broken_off(result)
    computed = {event.record.key: event.record.cost_usd for event in house.events if event.record}
    assert last.cost_usd > 0
    assert result.cost_usd == pytest.approx(sum(computed.values()))


def test_the_first_attempt_s_error_is_the_job_s(house: House) -> None:
    in_attempt(1, raising(InvalidInput("photos", "no face is found", "Give another photo.")))
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(gated_message(house.store))
    assert house.until_ended().kind == "refused"


def second_attempt(house: House) -> Any:
    """The message of a job's second attempt, before its first step."""
    house.worker(UPSCALE)
    house.worker(QA)
    first = house.worker(REFINE)
    in_attempt(2, raising(Permanent("now")))
    house.publish(gated_message(house.store))
    house.until_ended()
    first.stop()
    synthetic.during[0] = lambda _: None
    message = house.dead_letter("refine").message
    assert message is not None
    return message.model_copy(update={"attempts": 0, "failures": ()})


def test_a_further_attempt_that_hangs_leaves_the_best_so_far(house: House) -> None:
    message = second_attempt(house)
    with held():
        house.worker(REFINE, WorkerLimits(step_deadline_s=0.1))
        house.publish(message.model_copy(update={"attempts": 2}))
        result = result_of(house.until_ended())
    error = broken_off(result).error
    assert error is not None
    assert error.kind == "StepTimedOut"


def test_a_further_attempt_that_kills_its_workers_leaves_the_best_so_far(house: House) -> None:
    message = second_attempt(house)
    house.publish(message)
    for _ in range(3):
        die_of_a_message()
    house.worker(REFINE)
    error = broken_off(result_of(house.until_ended())).error
    assert error is not None
    assert error.kind == "WorkerCrashed"


def test_a_store_that_is_away_when_the_attempt_ends_costs_time_and_no_picture(house: House) -> None:
    """The worker waits, and no crash is forgotten meanwhile: the step is not run once more."""
    message = second_attempt(house)
    house.publish(message)
    for _ in range(3):
        die_of_a_message()
    get, asked = house.store.get, []

    def away_at_first(key: str) -> bytes | None:
        asked.append(key)
        if len(asked) < 3:
            raise Transient("connection refused")
        return get(key)

    house.store.get = away_at_first  # type: ignore[method-assign]
    house.worker(REFINE)
    assert result_of(house.until_ended()).kept
    assert len(asked) > 3
    assert ran.count("a") == 2


def test_a_store_that_is_away_when_a_step_hangs_leaves_it_to_the_next_worker(house: House) -> None:
    """This one is spent, and cannot wait."""
    message = second_attempt(house)
    get, away = house.store.get, [True]

    def away_once(key: str) -> bytes | None:
        if key == message.gate.record.key and away:
            away.clear()
            raise Transient("connection refused")
        return get(key)

    house.store.get = away_once  # type: ignore[method-assign]
    with held():
        house.publish(message.model_copy(update={"attempts": 2}))
        for _ in range(2):
            house.worker(REFINE, WorkerLimits(step_deadline_s=0.1))
            house.until(lambda event: event.kind == "started")
        result = result_of(house.until_ended())
    error = broken_off(result).error
    assert error is not None
    assert error.kind == "StepTimedOut"
    assert not away


def test_where_what_is_known_of_the_attempts_is_lost_the_error_is_the_job_s(house: House) -> None:
    message = second_attempt(house)
    assert message.gate.record is not None
    del house.store.blobs[message.gate.record.key]
    in_attempt(1, raising(Permanent("it cannot be")))
    house.worker(REFINE)
    house.publish(message)
    assert house.until_ended().kind == "dead"


def test_a_store_that_refuses_the_record_of_the_attempts_ends_the_job_and_no_worker(house: House) -> None:
    """Else each worker that got the message would die of it, and it of all its workers."""
    message = second_attempt(house)
    refuse_the_record(house, message)
    in_attempt(1, raising(Permanent("it cannot be")))
    house.worker(REFINE)
    house.publish(message)
    assert house.until_ended().kind == "dead"
    assert house.raised == []
    assert house.dead_letter("refine").error.message == "it cannot be"


def test_an_attempt_is_kept_though_the_store_refuses_the_record_of_those_before(house: House) -> None:
    message = second_attempt(house)
    refuse_the_record(house, message)
    house.worker(REFINE)
    house.publish(message)
    result = result_of(house.until_ended())
    assert ([one.number for one in result.attempts or ()], result.kept) == ([2], 2)


def test_an_attempt_is_kept_though_it_has_failed_too_long_to_look_for_the_record_again(house: House) -> None:
    """The rule for IntegrityError bounds the time as well as the tries."""
    message = second_attempt(house)
    (first,) = Attempts.from_json(house.store.blobs.pop(message.gate.record.key)).attempts
    failure = Failure(at=now() - timedelta(hours=1), worker="w", error=TROUBLE)
    done = message.model_copy(update={"cursor": 3, "attempts": 1, "failures": (failure,)})
    made = {done.result: (first.attempt.image,), done.verdict: (first.attempt.verdict,)}
    ahead = done.model_copy(update={"artifacts": {**done.artifacts, **made}})
    rule = RetryRule(attempts=9, give_up_after_s=60.0)
    dispatch = ended(
        done, first.trail[-1], ahead, house.store, Origin("w", RetryPolicy(rules={"IntegrityError": rule}))
    )
    result = result_of(Event.from_json(dispatch.then[-1].body))
    assert ([one.number for one in result.attempts or ()], result.kept) == ([2], 2)


def refuse_the_record(house: House, message: Any) -> None:
    get = house.store.get

    def refuse(key: str) -> bytes | None:
        if key == message.gate.record.key:
            raise Permanent("AccessDenied")
        return get(key)

    house.store.get = refuse  # type: ignore[method-assign]


def test_an_attempt_whose_record_no_store_takes_is_the_last_and_the_best_is_kept(house: House) -> None:
    """As where the disk is full: the job cannot go back, and what is finished is enough."""
    put = house.store.put

    def full(key: str, data: bytes, media_type: str) -> bool:
        if b'"attempts"' in data:
            raise ResourceExhausted("no space left on device")
        return put(key, data, media_type)

    house.store.put = full  # type: ignore[method-assign]
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(gated_message(house.store))
    result = result_of(house.until_ended())
    assert ([one.number for one in result.attempts or ()], result.kept) == ([1], 1)
    assert [event.kind for event in house.events].count("retrying") == 2, "there may be room later"


def test_an_attempt_is_kept_though_only_a_newer_version_reads_the_record_of_those_before(house: House) -> None:
    message = second_attempt(house)
    assert message.gate.record is not None
    newer = house.store.blobs[message.gate.record.key].replace(b'"schema_version":1', b'"schema_version":2')
    ref = store_artifact(house.store, message.subject, "verdict", newer, "application/json")
    house.worker(REFINE)
    house.publish(message.model_copy(update={"gate": message.gate.model_copy(update={"record": ref})}))
    result = result_of(house.until_ended())
    assert ([one.number for one in result.attempts or ()], result.kept) == ([2], 2)


def test_the_journal_shows_the_job_done_with_the_steps_of_the_attempt_that_was_kept(house: House) -> None:
    in_attempt(2, raising(Permanent("it cannot be")), word="!")
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    message = gated_message(house.store)
    house.publish(message)
    result = result_of(house.until_ended())
    job = job_of(message)
    for event in house.events:
        job = apply(job, event)
    assert (job.state, job.result) == ("done", result)
    assert {step.state for step in job.steps} == {"finished"}
