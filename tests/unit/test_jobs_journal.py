"""The life of a job, case by case."""

import pytest

from shared.contracts.event import TERMINAL, Event, EventKind
from shared.contracts.step import Lineage
from shared.jobs.journal import ENDS, apply, replayed
from shared.jobs.port import Job, StepState
from tests.contract.jobs_samples import (
    DAWN,
    RESULT,
    STEPS,
    TROUBLE,
    at,
    event,
    first_message,
    history,
    job,
    record_of,
)

LINEAGE = Lineage(letter_id="letter-1", by="ann", at=at(30))


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


@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_a_replay_opens_an_ended_job_for_one_more_run(end: EventKind) -> None:
    again = after(event(end, error=TROUBLE, result=RESULT), event("replayed", run=1))
    assert (again.state, again.run, again.error, again.result) == ("running", 1, None, None)


def test_a_new_run_keeps_the_steps_that_are_finished_and_starts_the_others_afresh() -> None:
    again = after(
        event("finished", "encode", record=record_of("encode")),
        event("progress", "base", fraction=0.7, attempt=3),
        event("dead", "base", attempt=3, error=TROUBLE),
        event("replayed", run=1),
    )
    assert again.steps == (
        StepState(step="encode", state="finished", fraction=1.0, attempts=1, seconds=2.5),
        StepState(step="base", state="waiting"),
        StepState(step="score", state="waiting"),
    )


def test_any_event_of_a_newer_run_opens_the_job_and_counts() -> None:
    """The event `replayed` may come after it, or never."""
    started = after(event("dead", "base", attempt=5, error=TROUBLE), event("started", "base", run=1))
    assert (started.state, started.run, started.steps[1]) == (
        "running", 1, StepState(step="base", state="running", attempts=1),
    )  # fmt: skip
    assert after(event("replayed", run=1), start=started) == started


def test_a_new_run_may_end_with_the_very_event_that_opens_it() -> None:
    done = after(event("dead", "base", error=TROUBLE), event("done", run=1, result=RESULT))
    assert (done.state, done.run, done.error, done.result) == ("done", 1, None, RESULT)


@pytest.mark.parametrize("late", [*history(), event("dead", "base", error=TROUBLE), event("cancelled", at=at(50))])
def test_an_event_of_an_older_run_changes_nothing(late: Event) -> None:
    again = after(event("replayed", run=1, at=at(2)))
    assert after(late, start=again) == again


def test_a_run_that_ended_stays_ended_and_the_next_may_end_otherwise() -> None:
    first = after(event("done", run=1, result=RESULT), event("dead", "base", run=1, error=TROUBLE))
    assert (first.state, first.run) == ("done", 1)
    second = after(event("cancelled", run=2), start=first)
    assert (second.state, second.run, second.result) == ("cancelled", 2, None)


def test_a_refused_job_may_be_replayed() -> None:
    """Once the photo is mended."""
    refused = after(event("started", "encode"), event("refused", "encode", error=TROUBLE))
    assert after(event("replayed", run=1), event("done", run=1, result=RESULT), start=refused).state == "done"


def test_a_replays_message_opens_the_job_from_its_own_step_on() -> None:
    """Also steps that were finished: they are to be done again, with other parameters."""
    ended = after(*history())
    message = first_message().model_copy(update={"run": 1, "cursor": 1, "lineage": LINEAGE})
    again = replayed(ended, message)
    assert (again.state, again.run, again.result, again.first_message) == ("running", 1, None, message)
    assert [(step.state, step.attempts) for step in again.steps] == [("finished", 1), ("waiting", 0), ("waiting", 0)]
    assert (again.released_at, again.updated_at) == (LINEAGE.at, LINEAGE.at)


def test_a_replay_leaves_the_release_where_it_was() -> None:
    message = first_message().model_copy(update={"run": 1, "lineage": LINEAGE})
    assert replayed(job(released_at=at(1), state="dead"), message).released_at == at(1)


def test_a_replays_message_of_the_runs_own_becomes_its_first_and_changes_nothing_else() -> None:
    """The run's events came before the replay was on record."""
    opened = after(event("started", "base", run=1))
    message = first_message().model_copy(update={"run": 1})
    assert replayed(opened, message) == opened.model_copy(update={"first_message": message})


def test_a_replays_message_of_an_older_run_changes_nothing() -> None:
    opened = after(event("started", "base", run=2))
    assert replayed(opened, first_message().model_copy(update={"run": 1})) == opened


def test_a_step_finished_tells_what_it_cost_this_job() -> None:
    paid = record_of("encode").model_copy(update={"cost_usd": 0.25})
    assert encode(event("finished", "encode", record=paid)).cost_usd == 0.25


@pytest.mark.parametrize("document", [job(subject=None, request=None, first_message=None), after(*history())])
def test_a_job_survives_as_a_document(document: Job) -> None:
    """A refused job without subject, request and message, too: absent fields are left out and found absent."""
    assert Job.from_json(document.to_json()) == document


def test_updated_at_is_the_latest_instant_told() -> None:
    assert after(event("started", "encode", at=at(5)), event("started", "base", at=at(3))).updated_at == at(5)


def test_an_event_of_another_job_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="is of job job-2, not of job-1"):
        apply(job(), event("started", "encode", job_id="job-2"))
