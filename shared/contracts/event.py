"""Something that happened to a job, published for whoever listens."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempt import Attempt
from shared.contracts.base import Contract, Fraction, Identifier, Instant, Name, Seconds, Usd
from shared.contracts.step import ErrorAccount, StepRecord
from shared.contracts.verdict import VerdictSummary

EventKind = Literal[
    "accepted",
    "refused",
    "started",
    "progress",
    "finished",
    "retrying",
    "regenerating",
    "replayed",
    "done",
    "dead",
    "cancelled",
    "expired",
]
TERMINAL: frozenset[EventKind] = frozenset({"refused", "done", "dead", "cancelled", "expired"})
"""After one of these nothing more happens to a job unless somebody replays it."""


class JobResult(Contract):
    """What a finished job leaves: the picture, how good it is, what it took.

    Where the recipe has a gate, picture, verdict, summary and trail are those of the attempt that was kept; seconds and
    cost are of all.
    """

    image: ArtifactRef
    verdict: ArtifactRef
    summary: VerdictSummary
    trail: tuple[StepRecord, ...]
    seconds: Seconds = Field(description="worker seconds spent by this job")
    cost_usd: Usd
    attempts: tuple[Attempt, ...] | None = Field(default=None, description="every attempt, where the recipe has a gate")
    kept: int | None = Field(default=None, description="the number of the attempt that was kept")


class Event(Contract):
    """`started`, `progress`, `finished`, `retrying` and `dead` speak of a step; the others of the job.

    `regenerating`: the picture did not pass and the job goes back to an earlier step. From then on steps are told
    again, with `tried` one higher.
    `replayed` opens a job again: its events from then on are of a newer run, and those of older runs count no more.
    """

    schema_version: Literal[1] = 1
    event_id: Identifier
    kind: EventKind
    job_id: Identifier
    batch_id: Identifier | None = None
    caller: Identifier
    subject: Identifier | None = None
    at: Instant
    worker: str
    run: Annotated[int, Field(ge=0)] = Field(default=0, description="0, and one more with each replay")
    step: Name | None = None
    stage: Name | None = None
    attempt: Annotated[int, Field(ge=1)] | None = Field(default=None, description="at the step")
    tried: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="attempts at the picture that were behind the job; absent in its first"
    )
    attempted: Attempt | None = Field(default=None, description="of `regenerating`: the attempt that did not pass")
    fraction: Fraction | None = Field(default=None, description="of `progress`")
    preview: ArtifactRef | None = Field(
        default=None, description="of `progress`: a small JPEG or PNG of the step's picture as it comes into being"
    )
    record: StepRecord | None = Field(default=None, description="of `finished`")
    retry_in_s: Seconds | None = Field(default=None, description="of `retrying`")
    error: ErrorAccount | None = Field(default=None, description="of `retrying`, `dead`, `refused`")
    result: JobResult | None = Field(default=None, description="of `done`")

    @property
    def routing_key(self) -> str:
        """`job.<job id>.<kind>`, dots in the id replaced so that topic patterns stay usable."""
        return f"job.{self.job_id.replace('.', '_')}.{self.kind}"
