"""What the gateway's journal asks of a job store. SQLAlchemy does SQLite and PostgreSQL."""

from typing import Literal, Protocol

from shared.contracts.base import Contract, Fraction, Identifier, Instant, Name, Seconds
from shared.contracts.brief import Brief
from shared.contracts.event import Event, JobResult
from shared.contracts.request import JobRequest
from shared.contracts.step import ErrorAccount, StepMessage

JobState = Literal["accepted", "running", "done", "refused", "dead", "cancelled", "expired"]
StepCondition = Literal["waiting", "running", "retrying", "finished", "dead"]


class StepState(Contract):
    """One step of a job, as far as its events tell."""

    step: Name
    state: StepCondition
    fraction: Fraction = 0.0
    attempts: int = 0
    reused: bool = False
    seconds: Seconds | None = None


class Job(Contract):
    """A job as it stands now."""

    job_id: Identifier
    batch_id: Identifier | None = None
    caller: Identifier
    subject: Identifier | None
    state: JobState
    request: JobRequest | None
    brief: Brief | None = None
    first_message: StepMessage | None
    steps: tuple[StepState, ...]
    error: ErrorAccount | None = None
    result: JobResult | None = None
    created_at: Instant
    updated_at: Instant


class JobStore(Protocol):
    """The journal's memory. Thread-safe; every call is one transaction, safe beside other processes' calls.

    Every call may raise:
        Transient: the database cannot be reached, or is locked for too long.
        ResourceExhausted: the database is out of disk or memory.
        Permanent: the database refuses for another reason.
    """

    def add(self, job: Job) -> Job:
        """Record a new job; the job that stands afterwards.

        Where the job id stands already, or else the pair of caller and the request's idempotency key, nothing
        changes and that earlier job is returned. Whether it is another caller's is for the gateway to judge.
        """

    def get(self, job_id: str) -> Job | None:
        """The job as it stands."""

    def record(self, event: Event) -> Job | None:
        """Apply an event to its job; the job afterwards, or None (and nothing is kept) where no such job is known.

        An event seen before (same event_id) changes nothing. A terminal state is left by no later event, and a
        step that is finished does not start again because its event came late. `shared.jobs.journal` has the rules.
        """

    def recent(self, limit: int = 20, *, subject: str | None = None, batch_id: str | None = None) -> tuple[Job, ...]:
        """The newest jobs first, at most `limit` (at least 1) of them."""

    def unfinished(self) -> tuple[Job, ...]:
        """The jobs that have not ended, the oldest first: what a restarted embedded stack takes up again."""

    def events(self, job_id: str) -> tuple[Event, ...]:
        """All events of a job in the order they were recorded; progress is not kept."""

    def close(self) -> None:
        """Give connections back."""
