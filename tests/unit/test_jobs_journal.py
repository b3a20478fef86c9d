"""The life of a job, case by case."""

import pytest

from shared.contracts.event import TERMINAL, Event, EventKind
from shared.jobs.journal import ENDS, apply
from shared.jobs.port import Job, StepState
from tests.contract.jobs_samples import DAWN, RESULT, STEPS, TROUBLE, at, event, history, job, record_of


def after(*told: Event, start: Job | None = None) -> Job:
    """The job after these events."""
    standing = start or job()
    for each in told:
        standing = apply(standing, each)
    return standing


def encode(*told: Event) -> StepState:
    """The first step after these events."""
    return after(*told).steps[0]


def test_every_event_of_a_job_survives_the_bus() -> None:
    """The result of a picture in which no face was found included: its score is absent."""
    assert [Event.from_json(told.to_json()) for told in history()] == list(history())


def test_a_job_that_goes_well_is_done_with_its_result() -> None:
    done = after(*history())
    assert (done.state, done.error, done.result) == ("done", None, RESULT)
    assert done.steps == tuple(
        StepState(step=step, state="finished", fraction=1.0, attempts=1, seconds=2.5) for step in STEPS
    )


def test_accepted_tells_nothing_new() -> None:
    assert after(event("accepted", at=DAWN)) == job()


@pytest.mark.parametrize("kind", ["started", "progress", "finished", "retrying"])
def test_any_news_of_a_step_means_the_job_is_running(kind: EventKind) -> None:
    assert after(event(kind, "encode")).state == "running"


def test_news_of_a_step_leaves_the_other_steps_alone() -> None:
    assert after(event("finished", "encode", record=record_of("encode"))).steps[1:] == job().steps[1:]


def test_a_step_starts() -> None:
    assert encode(event("started", "encode")) == StepState(step="encode", state="running", attempts=1)


def test_progress_moves_forward_only() -> None:
    told = [event("progress", "encode", fraction=fraction) for fraction in (0.2, 0.7, 0.4)]
    assert encode(*told).fraction == 0.7


def test_a_new_attempt_does_not_take_progress_back() -> None:
    again = encode(
        event("progress", "encode", fraction=0.7), event("retrying", "encode"), event("started", "encode", attempt=2)
    )
    assert (again.state, again.attempts, again.fraction) == ("running", 2, 0.7)


def test_a_late_start_does_not_end_the_wait_for_the_next_attempt() -> None:
    waiting = encode(event("retrying", "encode"), event("started", "encode"), event("progress", "encode", fraction=0.1))
    assert (waiting.state, waiting.attempts) == ("retrying", 1)


def test_a_late_retry_does_not_stop_the_attempt_that_followed() -> None:
    running = encode(event("started", "encode", attempt=2), event("retrying", "encode", attempt=1))
    assert (running.state, running.attempts) == ("running", 2)


def test_a_finished_step_tells_its_seconds_and_whether_it_was_reused() -> None:
    step = encode(event("finished", "encode", attempt=2, record=record_of("encode", reused=True, seconds=4.0)))
    expected = StepState(step="encode", state="finished", fraction=1.0, attempts=2, reused=True, seconds=4.0)
    assert step == expected


@pytest.mark.parametrize("kind", ["started", "progress", "retrying", "dead"])
def test_a_finished_step_does_not_open_again(kind: EventKind) -> None:
    finished = event("finished", "encode", record=record_of("encode"))
    assert encode(finished, event(kind, "encode", fraction=0.5)) == encode(finished)


def test_a_step_redelivered_after_it_was_computed_still_counts_as_computed() -> None:
    """A worker that died between its event and its acknowledgement makes the next one find the manifest."""
    computed = event("finished", "encode", record=record_of("encode", seconds=4.0))
    found = event("finished", "encode", record=record_of("encode", reused=True, seconds=4.0))
    assert encode(computed, found) == encode(found, computed) == encode(computed)


def test_a_dead_step_ends_the_job_with_its_error() -> None:
    dead = after(event("started", "encode"), event("dead", "encode", attempt=5, error=TROUBLE))
    assert (dead.state, dead.error) == ("dead", TROUBLE)
    assert (dead.steps[0].state, dead.steps[0].attempts) == ("dead", 5)


def test_a_retry_keeps_its_error_to_itself() -> None:
    assert after(event("retrying", "encode", error=TROUBLE)).error is None


def test_a_refused_job_tells_why() -> None:
    refused = after(event("refused", error=TROUBLE))
    assert (refused.state, refused.error) == ("refused", TROUBLE)


@pytest.mark.parametrize("first", sorted(TERMINAL))
@pytest.mark.parametrize("second", sorted(TERMINAL))
def test_the_first_end_is_the_end(first: EventKind, second: EventKind) -> None:
    ended = after(event(first, error=TROUBLE))
    later = after(event(second, result=RESULT), start=ended)
    assert (later.state, later.error, later.result) == (first, TROUBLE, None)


def test_every_terminal_event_has_a_state() -> None:
    assert set(ENDS) == TERMINAL


def test_a_step_that_finishes_after_the_job_was_cancelled_is_told() -> None:
    late = after(event("cancelled"), event("finished", "encode", record=record_of("encode")))
    assert (late.state, late.steps[0].state) == ("cancelled", "finished")


def test_done_finishes_the_steps_whose_events_were_lost() -> None:
    done = after(event("done", result=RESULT))
    assert [(step.state, step.seconds) for step in done.steps] == [("finished", 2.5)] * len(STEPS)


def test_a_step_that_the_job_does_not_have_changes_no_step() -> None:
    told = after(event("started", "unheard-of"))
    assert (told.state, told.steps) == ("running", job().steps)


def test_updated_at_is_the_latest_instant_told() -> None:
    assert after(event("started", "encode", at=at(5)), event("started", "base", at=at(3))).updated_at == at(5)


def test_an_event_of_another_job_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="is of job job-2, not of job-1"):
        apply(job(), event("started", "encode", job_id="job-2"))
