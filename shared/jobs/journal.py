"""The life of a job as a pure function of its events. The rules in words: docs/job-states.md.

Events come late, twice and out of order, so what is known of a step only ever grows: steps and `updated_at` depend on
the set of events alone. The job ends with the first terminal event; where there is only one, the whole job depends on
the set of events alone. Each replay opens the job again for one more run, of which the same holds.
"""

from collections.abc import Container, Mapping

from shared.contracts.event import Event, EventKind
from shared.contracts.step import StepMessage, StepRecord
from shared.jobs.port import Job, JobState, StepCondition, StepState

ENDS: Mapping[EventKind, JobState] = {
    "refused": "refused",
    "done": "done",
    "dead": "dead",
    "cancelled": "cancelled",
    "expired": "expired",
}
"""The state each terminal event leaves a job in."""

_TELLS_OF_WORK = frozenset[EventKind]({"started", "progress", "finished", "retrying"})
_WITHIN_AN_ATTEMPT: Mapping[StepCondition, int] = {"waiting": 0, "running": 1, "retrying": 2, "dead": 3, "finished": 4}
_FOR_GOOD: Mapping[StepCondition, int] = {"dead": 1, "finished": 2}


def apply(job: Job, event: Event) -> Job:
    """The job after an event. Applying an event again changes nothing.

    Raises:
        ValueError: the event is another job's.
    """
    if event.job_id != job.job_id:
        raise ValueError(f"event {event.event_id} is of job {event.job_id}, not of {job.job_id}")
    if event.run < job.run:
        return job
    finished = {step.step for step in job.steps if step.state == "finished"}
    standing = job if event.run == job.run else _opened_again(job, event.run, finished)
    known = standing.model_copy(
        update={
            "steps": tuple(_step_after(step, event) for step in standing.steps),
            "updated_at": max(standing.updated_at, event.at),
        }
    )
    if standing.state in ENDS.values():
        return known
    if event.kind in ENDS:
        return known.model_copy(
            update={"state": ENDS[event.kind], "error": event.error, "result": event.result},
        )
    return known.model_copy(update={"state": "running"}) if event.kind in _TELLS_OF_WORK else known


def replayed(job: Job, message: StepMessage) -> Job:
    """The job once a dead letter of it was replayed with this message: the steps from its own on are yet to be done.

    A message of the job's own run becomes its first one and changes nothing else; one of an older run, nothing at all.
    """
    if message.run < job.run:
        return job
    known = job.model_copy(update={"first_message": message})
    if message.run == job.run:
        return known
    at = message.lineage.at if message.lineage else job.updated_at
    done = {step.name for step in message.steps[: message.cursor]}
    return _opened_again(known, message.run, done).model_copy(
        update={"released_at": job.released_at or at, "updated_at": max(job.updated_at, at)}
    )


def _opened_again(job: Job, run: int, done: Container[str]) -> Job:
    """The job at the start of a newer run: the steps that are not done are yet to be."""
    anew = {"state": "waiting", "fraction": 0.0, "attempts": 0}
    steps = tuple(step if step.step in done else step.model_copy(update=anew) for step in job.steps)
    return job.model_copy(update={"run": run, "state": "running", "steps": steps, "error": None, "result": None})


def _step_after(step: StepState, event: Event) -> StepState:
    if event.kind == "done" and event.result is not None:
        record = next((record for record in event.result.trail if record.step == step.step), None)
        return _finished(step, record) if record else step
    if event.step != step.step:
        return step
    attempt = event.attempt or 1
    match event.kind:
        case "started" | "progress":
            return _reached(step, "running", attempt, event.fraction or 0.0)
        case "retrying" | "dead":
            return _reached(step, event.kind, attempt)
        case "finished":
            return _finished(_reached(step, "finished", attempt), event.record)
        case _:
            return step


def _reached(step: StepState, state: StepCondition, attempt: int, fraction: float = 0.0) -> StepState:
    """The further of where the step stands and where the event saw it."""
    furthest, _ = max((step.state, step.attempts), (state, attempt), key=_how_far)
    return step.model_copy(
        update={
            "state": furthest,
            "attempts": max(step.attempts, attempt),
            "fraction": max(step.fraction, fraction),
        }
    )


def _how_far(standing: tuple[StepCondition, int]) -> tuple[int, int, int]:
    state, attempt = standing
    return _FOR_GOOD.get(state, 0), attempt, _WITHIN_AN_ATTEMPT[state]


def _finished(step: StepState, record: StepRecord | None) -> StepState:
    """The step finished. Of several records the one that computed counts, not one that found its work done."""
    accounts = [(record.reused, record.seconds, record.cost_usd)] if record else []
    if step.seconds is not None:
        accounts.append((step.reused, step.seconds, step.cost_usd))
    reused, seconds, cost_usd = min(accounts, default=(False, None, 0.0))
    account = {"reused": reused, "seconds": seconds, "cost_usd": cost_usd}
    return step.model_copy(update={"state": "finished", "fraction": 1.0, **account})
