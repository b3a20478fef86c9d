"""What speaks for a job being lost, weighed by pure functions. No clock of another machine is believed.

A released job that has not ended is somewhere: in a queue, in a worker's hands, or on its way between them, and then
events tell of it. It is suspected when it is seen in neither: its stage's queues are empty and no live worker names it.
It is lost when every worker of its stage has beaten twice more since, and still nobody has it and nothing was told.
Two beats, since the first may have been on its way before the queues were looked at.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.contracts.base import Instant
from shared.contracts.beat import Beat
from shared.contracts.step import PinnedStep
from shared.jobs.journal import tried_of
from shared.jobs.port import Job, StepState

BEATS_NEEDED = 2

Place = tuple[str, str]
"""A stage and a lane."""


@dataclass(frozen=True)
class Mark:
    """How a job stood. Any event of it that counts makes another mark."""

    run: int
    updated_at: datetime
    steps: tuple[StepState, ...]


@dataclass(frozen=True)
class Suspicion:
    """A job that was found nowhere: how it stood then, and for each worker of its stage its beats since."""

    mark: Mark
    newest: Mapping[str, Instant]
    beats: Mapping[str, int]


@dataclass(frozen=True)
class Scene:
    """What was seen, in this order: jobs in flight, live workers' newest beats, empty queues, the journal's queue."""

    jobs: tuple[Job, ...]
    beats: tuple[Beat, ...]
    empty: frozenset[Place]
    journal_is_empty: bool


def mark_of(job: Job) -> Mark:
    """How the job stands."""
    return Mark(job.run, job.updated_at, job.steps)


def current_step(job: Job) -> PinnedStep | None:
    """The step that the job's message is at, as the journal knows it: the first that its run has not finished.

    A run that began in the middle has come back before its beginning where it makes a further attempt at the picture.
    """
    message = job.first_message
    if message is None:
        return None
    finished = {step.step for step in job.steps if step.state == "finished"}
    behind = len(message.steps) - message.cursor
    if tried_of(job) > message.tried:
        behind = max(behind, len(message.steps_again))
    route = message.steps[-behind:]
    return next((step for step in route if step.name not in finished), route[-1])


def place_of(job: Job) -> Place | None:
    """Whose queues hold the job's message, if any queue does."""
    step = current_step(job)
    return None if step is None or job.first_message is None else (step.stage, job.first_message.priority)


def suspects(scene: Scene, before: Mapping[str, Suspicion]) -> dict[str, Suspicion]:
    """The jobs that are found nowhere, by id, those suspected before with what was seen since.

    While events wait in the journal's queue nothing new can be said, and what was said before stands.
    """
    if not scene.journal_is_empty:
        return dict(before)
    in_hand = {held.job_id for beat in scene.beats for held in beat.in_hand}
    found = {}
    for job in scene.jobs:
        place = place_of(job)
        if place is None or place not in scene.empty or job.job_id in in_hand:
            continue
        newest = {beat.worker: beat.at for beat in scene.beats if beat.stage == place[0]}
        earlier = before.get(job.job_id)
        fresh = Suspicion(mark_of(job), newest, dict.fromkeys(newest, 0))
        found[job.job_id] = fresh if earlier is None or earlier.mark != fresh.mark else _older(earlier, newest)
    return found


def is_lost(suspicion: Suspicion, seen_before: bool) -> bool:
    """Whether a suspicion has become a certainty: no worker of its stage is left that may still name the job."""
    return seen_before and all(count >= BEATS_NEEDED for count in suspicion.beats.values())


def _older(earlier: Suspicion, newest: Mapping[str, Instant]) -> Suspicion:
    """The same suspicion after another look. Workers that are gone need not beat; new ones have to, too."""
    beats = {worker: earlier.beats.get(worker, 0) + (earlier.newest.get(worker) != at) for worker, at in newest.items()}
    return Suspicion(earlier.mark, newest, beats)


@dataclass
class HoldBacks:
    """Says which jobs may be held back by a broker that delays retries where nobody can count them.

    It holds nothing longer than `longest_s`; by our own clock, since the job was first seen to wait for its retry.
    """

    longest_s: float
    clock: Callable[[], float]
    _since: dict[str, tuple[Mark, float]] = field(default_factory=dict)

    def of(self, jobs: Iterable[Job]) -> frozenset[str]:
        """The ids of those that may be held back."""
        at, known = self.clock(), self._since
        self._since = {}
        for job in jobs:
            if any(step.state == "retrying" for step in job.steps):
                mark, since = known.get(job.job_id, (None, at))
                self._since[job.job_id] = (mark_of(job), since if mark == mark_of(job) else at)
        return frozenset(job_id for job_id, (_, since) in self._since.items() if at - since < self.longest_s)


@dataclass
class Sightings:
    """Tells live workers from silent ones by our own clock: a worker is alive while its beats keep changing."""

    silent_after_s: float
    clock: Callable[[], float]
    _changed: dict[str, tuple[Instant, float]] = field(default_factory=dict)

    def alive(self, beats: Iterable[Beat]) -> tuple[Beat, ...]:
        """Of all workers' newest beats those of the living. A worker seen for the first time counts as alive."""
        at, known = self.clock(), self._changed
        self._changed = {}
        living = []
        for beat in beats:
            seen, since = known.get(beat.worker, (None, at))
            since = since if seen == beat.at else at
            self._changed[beat.worker] = (beat.at, since)
            if at - since <= self.silent_after_s:
                living.append(beat)
        return tuple(living)
