"""The life of a job as a pure function of its events. The rules in words: docs/job-states.md.

Events come late, twice and out of order, so what is known of a step only ever grows: steps and `updated_at` depend on
the set of events alone. The job ends with the first terminal event; where there is only one, the whole job depends on
the set of events alone. Each replay opens the job again for one more run, of which the same holds.

Where the recipe has a gate, a job may make several attempts at its picture. The steps from the gate's on show the
newest attempt that an event has named; what is told of an older one changes them no more.
"""

from collections.abc import Container, Mapping

from shared.contracts.attempt import Attempt
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

_TELLS_OF_WORK = frozenset[EventKind]({"started", "progress", "finished", "retrying", "regenerating"})
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
    tried = _tried(event)
    standing = job if event.run == job.run else _opened_by(event, job, tried)
    standing = _gone_back(standing, tried)
    again = _steps_again(standing)
    known = standing.model_copy(
        update={
            "steps": tuple(
                step if step.step in again and tried < (step.tried or 0) else _step_after(step, event)
                for step in standing.steps
            ),
            "attempts": _attempts_with(standing.attempts, event.attempted),
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
    again = _steps_again(known)
    steps = tuple(
        step.model_copy(update={"tried": message.tried or None}) if step.step in again else step for step in job.steps
    )
    known = known.model_copy(update={"steps": steps})
    return _opened_again(known, message.run, done).model_copy(
        update={"released_at": job.released_at or at, "updated_at": max(job.updated_at, at)}
    )


def tried_of(job: Job) -> int:
    """How many attempts at its picture are behind a job, as far as its events tell."""
    return max((step.tried or 0 for step in job.steps), default=0)


def _tried(event: Event) -> int:
    """The same, once the event has happened."""
    return event.attempted.number if event.attempted is not None else event.tried or 0


def _steps_again(job: Job) -> frozenset[str]:
    """The steps that each attempt at the picture does again; none where the job has no gate."""
    return frozenset(step.name for step in job.first_message.steps_again) if job.first_message else frozenset()


def _gone_back(job: Job, tried: int) -> Job:
    """The job at the start of a further attempt: the steps from the gate's on are yet to be done."""
    if tried <= tried_of(job):
        return job
    again = _steps_again(job)
    steps = tuple(
        StepState(step=step.step, state="waiting", tried=tried) if step.step in again else step for step in job.steps
    )
    return job.model_copy(update={"steps": steps})


def _attempts_with(known: tuple[Attempt, ...], told: Attempt | None) -> tuple[Attempt, ...]:
    """Those known and the one told of, by number. Of two accounts of one attempt the dearer counts."""
    if told is None:
        return known
    by_number: dict[int, Attempt] = {}
    for attempt in sorted((*known, told), key=lambda one: (one.cost_usd, one.seconds, one.to_json())):
        by_number[attempt.number] = attempt
    return tuple(by_number[number] for number in sorted(by_number))


def _opened_by(event: Event, job: Job, tried: int) -> Job:
    """The job once an event of a newer run is heard before the replay's message is known.

    What is finished stays, but for what an attempt does again: nobody has said yet with which one the run began.
    """
    again = _steps_again(job) if tried or tried_of(job) else frozenset[str]()
    fresh = tuple(StepState(step=step.step, state="waiting") if step.step in again else step for step in job.steps)
    finished = {step.step for step in fresh if step.state == "finished"}
    return _opened_again(job.model_copy(update={"steps": fresh}), event.run, finished)


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
