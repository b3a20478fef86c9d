"""What the gateway's journal asks of a job store. SQLAlchemy does SQLite and PostgreSQL."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from pydantic import Field

from shared.contracts.attempt import Attempt
from shared.contracts.base import Contract, Fraction, Identifier, Instant, Name, Seconds, Usd
from shared.contracts.batch import BatchRequest, BatchSummary
from shared.contracts.beat import Beat
from shared.contracts.brief import Brief
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.event import Event, JobResult
from shared.contracts.request import JobRequest, Lane
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
    cost_usd: Usd = 0.0
    tried: int | None = Field(
        default=None, description="attempts at the picture that were behind it; None in the first"
    )


class Job(Contract):
    """A job as it stands now."""

    job_id: Identifier
    batch_id: Identifier | None = None
    caller: Identifier
    subject: Identifier | None = None
    state: JobState
    request: JobRequest | None = None
    brief: Brief | None = None
    first_message: StepMessage | None = Field(default=None, description="of the newest run")
    run: int = 0
    released_at: Instant | None = None
    steps: tuple[StepState, ...]
    attempts: tuple[Attempt, ...] = Field(default=(), description="at the picture, that did not pass, as far as told")
    error: ErrorAccount | None = None
    result: JobResult | None = None
    created_at: Instant
    updated_at: Instant


LetterState = Literal["open", "replayed", "discarded"]


class FiledLetter(Contract):
    """A dead letter in the store, and what became of it."""

    letter: DeadLetter
    state: LetterState = "open"
    settled_at: Instant | None = None
    settled_by: str | None = None


class LetterFilter(Contract):
    """Which dead letters are meant: those that agree with every field that is set."""

    letter_id: Identifier | None = None
    stage: Name | None = None
    step: Name | None = None
    kind: str | None = None
    fingerprint: Identifier | None = None
    job_id: Identifier | None = None
    batch_id: Identifier | None = None
    caller: Identifier | None = None
    subject: Identifier | None = None
    state: LetterState | None = "open"


class LetterGroup(Contract):
    """Dead letters of one cause."""

    stage: str
    kind: str
    error_type: str
    fingerprint: Identifier
    count: int
    oldest: Instant
    newest: Instant
    example: Identifier
    example_message: str


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
        """The jobs that have not ended, the oldest first: as many as there are, those that wait included."""

    def events(self, job_id: str) -> tuple[Event, ...]:
        """All events of a job in the order they were recorded; progress is not kept."""

    def close(self) -> None:
        """Give connections back."""

    # -- releasing: an accepted job is a row until its turn comes --------------------------------------------------

    def release(self, lane: Lane, window: int, publish: Callable[[Job], None]) -> Job | None:
        """Publish the next waiting job of a lane and mark it released, in one transaction.

        None where no job waits, or `window` jobs of the lane are released and have not ended. Next is the oldest job
        of the caller whose last release (in this lane) lies farthest back. What `publish` raises undoes the mark.
        Two releasers never take the same job; they wait for one another, and on SQLite every other writer waits, too.
        """

    def waiting(self, lane: Lane | None = None, *, caller: str | None = None) -> int:
        """How many accepted jobs are not released yet."""

    def in_flight(self, lane: Lane) -> int:
        """How many jobs are released and have not ended."""

    def released(self) -> tuple[Job, ...]:
        """The jobs that are released and have not ended, of both lanes, the oldest first."""

    # -- dead letters ----------------------------------------------------------------------------------------------

    def file_letter(self, letter: DeadLetter) -> bool:
        """Keep a dead letter; False, and nothing changes, where one of that id stands or its subject was erased."""

    def letter_groups(self, wanted: LetterFilter) -> tuple[LetterGroup, ...]:
        """The letters by stage, error and fingerprint, largest group first."""

    def letters(
        self, wanted: LetterFilter, limit: int = 100, after: DeadLetter | None = None
    ) -> tuple[FiledLetter, ...]:
        """The oldest letters first, at most `limit` (at least 1) of them; those younger than `after`, to page on."""

    def settle_letter(
        self, letter_id: str, state: LetterState, by: str, act: Callable[[FiledLetter], StepMessage | None]
    ) -> FiledLetter | None:
        """Do `act` with an open letter and mark it `replayed` or `discarded`, in one transaction.

        None, and `act` is not called, where there is no such letter or it is settled already. What `act` raises
        leaves the letter open. The message that `act` published, if any, becomes the first one of its job, which is
        open again from then on: in the message's run, with the steps from the message's on yet to be done.

        Raises:
            ValueError: the state is `open`, which settles nothing.
        """

    # -- workers ---------------------------------------------------------------------------------------------------

    def beat(self, beat: Beat, heard_at: Instant) -> None:
        """Keep a worker's newest sign of life, heard at this moment of our own clock; an older one changes nothing."""

    def workers(self) -> tuple[Beat, ...]:
        """The newest beat of each worker that has not said `gone`, by name."""

    def forget_workers(self, heard_before: Instant) -> int:
        """Drop the workers of whom nothing new was heard since; how many. What their own clocks say is no matter."""

    # -- batches ---------------------------------------------------------------------------------------------------

    def file_batch_part(self, request: BatchRequest, jobs: int) -> None:
        """Note that a part of a batch was taken in with so many jobs. Told twice, it is one part."""

    def batch(self, batch_id: str) -> BatchSummary | None:
        """How a batch stands, counted from its jobs; None where neither a part of it was filed nor a job is known."""

    def close_batch(self, batch_id: str, publish: Callable[[BatchSummary], None]) -> bool:
        """Publish a batch's end once: where all its parts are filed and all its jobs have ended.

        `publish` runs inside the transaction that marks the batch closed; False where it is not called.
        """

    # -- subjects --------------------------------------------------------------------------------------------------

    def entomb(self, subject: str) -> None:
        """Note that a subject is erased (by the digest of its id), so that nothing of it is taken in or kept again."""

    def is_entombed(self, subject: str) -> bool:
        """Whether the subject was erased."""

    def exhume(self, subject: str) -> None:
        """Allow a subject that was erased to be taken in anew."""

    def of_subject(self, subject: str) -> tuple[Job, ...]:
        """All jobs of a subject."""

    def erase_subject(self, subject: str) -> Mapping[str, int]:
        """Remove all rows of a subject: how many `jobs`, `events` and `letters`.

        On SQLite its file is then written anew, while other writers wait; docs/job-states.md has what stays behind.

        Raises:
            Transient: also where the file could not be written anew. The rows are gone; call again.
        """

    def erase_older(self, than: Instant) -> Mapping[str, int]:
        """Remove jobs that ended before, with their events and letters: how many of each.

        Letters of before that belong to no job go as well. Large amounts go in several transactions.
        """
