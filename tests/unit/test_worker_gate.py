"""A picture that fails goes back: on the embedded broker, what is done again, what is kept, what is told."""

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import reduce
from random import Random

import pytest

from shared.broker.port import Outgoing
from shared.broker.topology import CONTROL
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempts import Attempts
from shared.contracts.base import now
from shared.contracts.control import Control
from shared.contracts.event import Event, JobResult
from shared.contracts.step import StepMessage
from shared.jobs.journal import apply
from shared.jobs.port import Job, StepState
from shared.storage.artifacts import fetch, store_artifact
from shared.worker.operation import Work
from tests import synthetic
from tests.synthetic import QA, REFINE, UPSCALE, AppendParams, gated_message, likeness_of, ran
from tests.unit.test_worker import PATIENCE_S, Pipeline, running


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    ran.clear()
    synthetic.during[0] = lambda _: None
    with running(REFINE, UPSCALE, QA) as pipeline:
        yield pipeline
    synthetic.during[0] = lambda _: None


def result_of(done: Event) -> JobResult:
    assert done.kind == "done"
    assert done.result is not None
    return done.result


def scores_of(result: JobResult) -> list[float | None]:
    return [attempt.identity_score for attempt in result.attempts or ()]


def job_of(message: StepMessage) -> Job:
    """The message's job as it stands before anything is told."""
    at = now() - timedelta(hours=1)
    steps = tuple(StepState(step=step.name, state="waiting") for step in message.steps)
    return Job(
        job_id=message.job_id,
        caller=message.caller,
        subject=message.subject,
        state="accepted",
        first_message=message,
        steps=steps,
        created_at=at,
        updated_at=at,
    )


def test_a_picture_that_fails_is_made_again_until_the_attempts_are_used_up(pipeline: Pipeline) -> None:
    """What comes before the gate's step is done once, the most alike is kept, and every attempt is in the result."""
    pipeline.publish(gated_message(pipeline.store))
    result = result_of(pipeline.until_ended())
    assert Counter(ran) == {"0": 1, "a": 3, "!": 3, "doubt": 3}
    assert result.attempts is not None
    assert [attempt.number for attempt in result.attempts] == [1, 2, 3]
    assert len({attempt.seed for attempt in result.attempts}) == 3
    assert len({attempt.image for attempt in result.attempts}) == 3
    assert not any(attempt.passed for attempt in result.attempts)
    assert [attempt.failed for attempt in result.attempts] == [("likeness",)] * 3
    best = max(result.attempts, key=lambda attempt: attempt.identity_score or 0.0)
    assert (result.kept, result.image, result.verdict) == (best.number, best.image, best.verdict)
    assert result.summary.identity_score == best.identity_score
    assert result.summary.identity_score == likeness_of(pipeline.store.blobs[result.image.key])
    assert [record.step for record in result.trail] == ["zero", "one", "two", "three"]


def test_the_weight_rises_while_the_likeness_is_too_low_up_to_its_bound(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store, identity_weight_most=0.9))
    result = result_of(pipeline.until_ended())
    assert [attempt.identity_weight for attempt in result.attempts or ()] == [0.85, 0.9, 0.9]


def test_the_first_that_passes_ends_it(pipeline: Pipeline) -> None:
    """The bound is what the second attempt will reach, of words whose second attempt is better than the first."""
    for word in "abcdefgh":
        pipeline.publish(gated_message(pipeline.store, job_id=f"try-{word}", word=word))
        scores = scores_of(result_of(pipeline.until_ended(f"try-{word}")))
        first, second = (score or 0.0 for score in scores[:2])
        if second > first:
            break
    pipeline.publish(gated_message(pipeline.store, word=word, min_likeness=second))
    result = result_of(pipeline.until_ended())
    assert scores_of(result) == scores[:2]
    assert (result.kept, result.summary.passed) == (2, True)


def test_one_that_passes_at_once_is_the_only_attempt(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store, min_likeness=0.0))
    result = result_of(pipeline.until_ended())
    assert (result.kept, len(result.attempts or ())) == (1, 1)
    assert Counter(ran) == {"0": 1, "a": 1, "!": 1, "doubt": 1}


def test_no_further_attempt_is_begun_that_would_cost_more_than_the_budget(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store, max_cost_usd=0.0))
    result = result_of(pipeline.until_ended())
    assert len(result.attempts or ()) == 1
    assert result.cost_usd > 0


def test_seconds_and_cost_are_of_all_attempts(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store))
    result = result_of(pipeline.until_ended())
    first = next(event.record for event in pipeline.events if event.step == "zero" and event.record)
    attempts = result.attempts or ()
    assert result.cost_usd == pytest.approx(first.cost_usd + sum(attempt.cost_usd for attempt in attempts))
    assert result.seconds == pytest.approx(first.seconds + sum(attempt.seconds for attempt in attempts))


def test_a_second_job_of_the_same_content_makes_the_same_attempts_and_computes_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store))
    first = result_of(pipeline.until_ended())
    before = list(ran)
    pipeline.publish(gated_message(pipeline.store, job_id="job-2"))
    second = result_of(pipeline.until_ended("job-2"))
    assert ran == before
    assert (second.image, second.kept, scores_of(second)) == (first.image, first.kept, scores_of(first))
    assert second.cost_usd == 0


def test_a_step_that_ran_out_of_memory_begins_the_next_attempt_with_the_plan_that_was_small_enough(
    pipeline: Pipeline,
) -> None:
    """Else each attempt would run out of memory first. The plan is no content: the pictures are the same."""
    pipeline.publish(gated_message(pipeline.store))
    roomy = result_of(pipeline.until_ended())
    plans: list[int] = []

    def run_out(work: Work[AppendParams]) -> None:
        if work.params.word == "!":
            plans.append(work.plan)
            if work.plan < 1:
                raise MemoryError

    synthetic.during[0] = run_out
    pipeline.store.blobs.clear()
    pipeline.publish(gated_message(pipeline.store, job_id="job-2"))
    tight = result_of(pipeline.until_ended("job-2"))
    assert plans == [0, 1, 1, 1]
    assert [one.image for one in tight.attempts or ()] == [one.image for one in roomy.attempts or ()]


def test_what_another_job_paid_for_is_no_measure_of_what_a_further_attempt_costs(pipeline: Pipeline) -> None:
    """Its first two attempts cost nothing, for they were found. The third would not be."""
    pipeline.publish(gated_message(pipeline.store, attempts=2))
    pipeline.until_ended()
    before = list(ran)
    pipeline.publish(gated_message(pipeline.store, job_id="job-2", attempts=3, max_cost_usd=0.0))
    assert result_of(pipeline.until_ended("job-2")).cost_usd == 0
    assert ran == before


def test_a_step_that_every_attempt_finds_is_paid_for_once(pipeline: Pipeline) -> None:
    """The gate goes back to a step that draws no numbers."""
    pipeline.publish(gated_message(pipeline.store, back_to="zero"))
    result = result_of(pipeline.until_ended())
    assert ran.count("0") == 1
    computed = {event.record.key: event.record.cost_usd for event in pipeline.events if event.record}
    assert result.cost_usd == pytest.approx(sum(computed.values()))


def test_every_attempt_is_told_apart_and_a_job_told_twice_is_told_the_same(pipeline: Pipeline) -> None:
    """The whole job is delivered again: the journal would drop every event but those of `progress`."""
    pipeline.publish(gated_message(pipeline.store))
    first = result_of(pipeline.until_ended())
    told = {event.event_id: event for event in pipeline.events if event.kind != "progress"}
    assert len(told) == len([event for event in pipeline.events if event.kind != "progress"])
    back = [event.attempted for event in pipeline.events if event.kind == "regenerating"]
    assert [attempt and attempt.number for attempt in back] == [1, 2]
    assert tuple(back) == (first.attempts or ())[:2]
    pipeline.events.clear()
    pipeline.publish(gated_message(pipeline.store))
    again = pipeline.until_ended()
    assert again.event_id in told
    assert result_of(again) == first, "the account is the same, though nothing was computed"
    assert {event.event_id for event in pipeline.events} <= told.keys()


def test_what_is_known_of_attempts_is_kept_among_the_subject_s_verdicts(pipeline: Pipeline) -> None:
    """So that it is erased with the subject, and expires with results."""
    pipeline.publish(gated_message(pipeline.store))
    result = result_of(pipeline.until_ended())
    verdicts = [key for key in pipeline.store.written if key.startswith("subjects/somebody/verdict/")]
    documents = [key for key in verdicts if b'"attempts"' in pipeline.store.blobs[key]]
    known = [Attempts.from_json(pipeline.store.blobs[key]).attempts for key in documents]
    assert [len(records) for records in known] == [1, 2]
    assert tuple(record.attempt for record in known[-1]) == (result.attempts or ())[:2]
    assert [fetch(pipeline.store, attempt.image) for attempt in result.attempts or () if attempt.image]


def test_a_job_cancelled_in_its_second_attempt_ends(pipeline: Pipeline) -> None:
    def cancel(work: Work[AppendParams]) -> None:
        if ran.count("a") == 2 and work.params.word == "a":
            body = Control(kind="cancel", job_id="job-1").to_json()
            pipeline.broker.publish(Outgoing(CONTROL, "", body, "c", mandatory=False))
            for _ in range(int(PATIENCE_S / 0.01)):
                work.progress(0.5)
                threading.Event().wait(0.01)

    synthetic.during[0] = cancel
    pipeline.publish(gated_message(pipeline.store))
    assert pipeline.until_ended().kind == "cancelled"


def test_a_deadline_that_has_passed_in_a_further_attempt_leaves_the_best_so_far(pipeline: Pipeline) -> None:
    """A picture that stands is not thrown away because a better one came too late."""
    second = message_in_its_second_attempt(pipeline)
    pipeline.publish(second.model_copy(update={"deadline": now() - timedelta(seconds=1)}))
    result = result_of(pipeline.until_ended())
    assert (result.kept, len(result.attempts or ())) == (1, 1)
    assert [record.step for record in result.trail] == ["zero", "one", "two", "three"]


def test_a_job_that_begins_again_after_its_deadline_keeps_the_best_of_what_stands(pipeline: Pipeline) -> None:
    """As when its process ended in the second attempt, and comes up again too late."""
    message_in_its_second_attempt(pipeline)
    before = list(ran)
    late = gated_message(pipeline.store).model_copy(update={"deadline": now() - timedelta(seconds=1)})
    pipeline.publish(late)
    result = result_of(pipeline.until_ended())
    assert (result.kept, len(result.attempts or ())) == (1, 1)
    assert ran == before, "nothing was computed"


def test_attempts_that_were_all_made_in_time_are_all_found_after_the_deadline(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store))
    first = result_of(pipeline.until_ended())
    pipeline.publish(gated_message(pipeline.store).model_copy(update={"deadline": now() - timedelta(seconds=1)}))
    assert result_of(pipeline.until_ended()) == first


def test_a_job_that_begins_again_with_fewer_attempts_keeps_the_best_of_those_and_computes_nothing(
    pipeline: Pipeline,
) -> None:
    """As when its process ended again and again in its second attempt."""
    message_in_its_second_attempt(pipeline)
    before = list(ran)
    pipeline.publish(gated_message(pipeline.store, attempts=1))
    result = result_of(pipeline.until_ended())
    assert (result.kept, len(result.attempts or ())) == (1, 1)
    assert ran == before


def test_a_job_past_its_deadline_that_has_no_picture_expires(pipeline: Pipeline) -> None:
    pipeline.publish(gated_message(pipeline.store).model_copy(update={"deadline": now() - timedelta(seconds=1)}))
    assert pipeline.until_ended().kind == "expired"
    assert ran == []


def message_in_its_second_attempt(pipeline: Pipeline) -> StepMessage:
    """What lies among the dead letters of a job whose second attempt breaks."""

    def break_once(work: Work[AppendParams]) -> None:
        if ran.count("a") == 2 and work.params.word == "a":
            raise ZeroDivisionError("broken on purpose")

    synthetic.during[0] = break_once
    pipeline.publish(gated_message(pipeline.store))
    done = pipeline.until_ended()
    synthetic.during[0] = lambda _: None
    assert (done.kind, done.step, done.tried) == ("done", "one", 1)
    letter = pipeline.dead_letter("refine")
    assert letter.message is not None
    assert letter.message.tried == 1
    return letter.message


def test_a_letter_of_the_second_attempt_replays_the_second_attempt(pipeline: Pipeline) -> None:
    pipeline.publish(message_in_its_second_attempt(pipeline))
    result = result_of(pipeline.until_ended())
    assert [attempt.number for attempt in result.attempts or ()] == [1, 2, 3]
    assert Counter(ran) == {"0": 1, "a": 4, "!": 3, "doubt": 3}, "only the step that died was run again"


def record_of(message: StepMessage) -> ArtifactRef:
    assert message.gate is not None
    assert message.gate.record is not None
    return message.gate.record


def test_an_attempt_is_kept_though_the_record_of_those_before_is_lost(pipeline: Pipeline) -> None:
    """As when its dead letter is replayed long after retention has taken the record: it would die of that for ever."""
    second = message_in_its_second_attempt(pipeline)
    del pipeline.store.blobs[record_of(second).key]
    pipeline.events.clear()
    pipeline.publish(second)
    result = result_of(pipeline.until_ended())
    assert ([attempt.number for attempt in result.attempts or ()], result.kept) == ([2], 2)
    assert "retrying" in [event.kind for event in pipeline.events], "it may have been read badly"


def test_a_record_that_only_a_newer_version_reads_ends_no_worker(pipeline: Pipeline) -> None:
    second = message_in_its_second_attempt(pipeline)
    newer = pipeline.store.blobs[record_of(second).key].replace(b'"schema_version":1', b'"schema_version":2')
    ref = store_artifact(pipeline.store, second.subject, "verdict", newer, "application/json")
    gate = second.gate and second.gate.model_copy(update={"record": ref})
    pipeline.publish(second.model_copy(update={"gate": gate, "deadline": now() - timedelta(seconds=1)}))
    assert pipeline.until_ended().kind == "expired"


def test_an_artifact_found_corrupt_in_the_second_attempt_is_made_again_and_the_attempt_goes_on(
    pipeline: Pipeline,
) -> None:
    """Even what a step before the gate's made."""

    def corrupt(work: Work[AppendParams]) -> None:
        if ran.count("a") == 1 and work.params.word == "!" and "0" in ran:
            for key, blob in pipeline.store.blobs.items():
                if blob == b"photo0":
                    pipeline.store.blobs[key] = b"tampered"

    synthetic.during[0] = corrupt
    pipeline.publish(gated_message(pipeline.store, attempts=2))
    result = result_of(pipeline.until_ended())
    assert [attempt.number for attempt in result.attempts or ()] == [1, 2]
    assert ran.count("0") == 2


def test_the_journal_comes_to_the_same_job_whatever_the_order_of_what_is_told(pipeline: Pipeline) -> None:
    message = gated_message(pipeline.store)
    pipeline.publish(message)
    result = result_of(pipeline.until_ended())
    start = job_of(message)
    ended = reduce(apply, pipeline.events, start)
    assert (ended.state, ended.result) == ("done", result)
    assert {step.state for step in ended.steps} == {"finished"}
    assert [attempt.number for attempt in ended.attempts] == [1, 2]
    rng = Random(5)
    for _ in range(20):
        told = [*pipeline.events, *rng.choices(pipeline.events, k=5)]
        rng.shuffle(told)
        assert reduce(apply, told, start) == ended
