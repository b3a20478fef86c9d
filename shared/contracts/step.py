"""The routing slip: a job's whole way, carried by the message itself."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempt import PinnedGate
from shared.contracts.base import (
    MESSAGE_LIMIT_BYTES,
    Contract,
    Digest,
    Identifier,
    Instant,
    Name,
    Parameters,
    Seconds,
    Seed,
    Usd,
)
from shared.contracts.packing import packed, unpacked
from shared.contracts.recipe import OperationName, SlotName, stage_of
from shared.contracts.request import Consent, Lane


class ErrorAccount(Contract):
    """An error as data: its class in our vocabulary, its origin, and what would help."""

    kind: str = Field(description="a class of shared.contracts.errors, e.g. 'Transient'")
    type: str = Field(description="the exception that was raised first")
    message: Annotated[str, StringConstraints(max_length=1000)]
    field: str | None = Field(default=None, description="of an InvalidInput: where in the request")
    hint: str = Field(description="what would help")
    traceback: Annotated[str, StringConstraints(max_length=4000)] = ""


class Failure(Contract):
    """One failed attempt at a step."""

    at: Instant
    worker: str
    error: ErrorAccount


class PinnedStep(Contract):
    """A recipe's step made definite: engine chosen, every parameter filled in and checked."""

    name: Name
    operation: OperationName
    operation_version: Annotated[int, Field(ge=1)]
    engine: Name
    params: Parameters
    seed: Seed | None = Field(default=None, description="None where the operation draws no random numbers")
    inputs: dict[Name, SlotName]

    @property
    def stage(self) -> str:
        """The stage whose queue this step is published to."""
        return stage_of(self.operation)


class StepRecord(Contract):
    """A finished step, as the message remembers it."""

    step: Name
    engine: Name
    key: Digest
    reused: bool = Field(description="another job, or another step of this one, had computed it")
    seconds: Seconds = Field(description="of the computation that made the outputs, whoever ran it")
    cost_usd: Usd = Field(description="spent by this job: 0 where reused")


class Lineage(Contract):
    """Where a replay comes from."""

    letter_id: Identifier
    by: Annotated[str, StringConstraints(max_length=100)]
    at: Instant


class StepMessage(Contract):
    """What is on a stage's queue: the route, how far it has come, and references to what was made."""

    schema_version: Literal[1] = 1
    job_id: Identifier
    batch_id: Identifier | None = None
    caller: Identifier
    subject: Identifier
    consent: Consent | None = None
    priority: Lane
    deadline: Instant | None = None
    recipe: Name
    recipe_version: int
    steps: tuple[PinnedStep, ...]
    cursor: Annotated[int, Field(ge=0)]
    artifacts: dict[SlotName, tuple[ArtifactRef, ...]]
    result: SlotName
    verdict: SlotName
    run: Annotated[int, Field(ge=0)] = Field(default=0, description="0, and one more with each replay")
    lineage: Lineage | None = Field(default=None, description="of a replay")
    trail: tuple[StepRecord, ...] = ()
    attempts: Annotated[int, Field(ge=0)] = Field(default=0, description="failed attempts at the current step")
    plan: Annotated[int, Field(ge=0)] = Field(
        default=0, description="0, or after running out of memory one of the operation's smaller plans"
    )
    plans: dict[Name, int] | None = Field(
        default=None, description="by step, the smaller plans that were small enough: the next attempt begins with them"
    )
    waiting: dict[Name, int] | None = Field(
        default=None, description="by step, the failed attempts at those that wait for an input to be made again"
    )
    failures: Annotated[tuple[Failure, ...], Field(max_length=2)] = Field(
        default=(), description="the first and the last failed attempt at the current step"
    )
    trace: dict[str, str] = Field(default_factory=dict, description="W3C trace context headers")
    gate: PinnedGate | None = Field(default=None, description="absent: a picture that fails is delivered as it is")
    words: dict[str, str] | None = Field(
        default=None,
        description="only in documents that would be too large else: parameters `{'$words': name}` stand for these",
    )

    @model_validator(mode="after")
    def _cursor_is_on_the_route(self) -> Self:
        if self.cursor >= len(self.steps):
            raise ValueError(f"cursor {self.cursor} lies past the last of {len(self.steps)} steps")
        return self

    @model_validator(mode="after")
    def _gate_goes_back_to_a_step(self) -> Self:
        if self.gate is not None and self.gate.back_to not in {step.name for step in self.steps[:-1]}:
            raise ValueError(f"the gate goes back to '{self.gate.back_to}', which is no step before the last")
        return self

    def to_json(self) -> bytes:
        """The document; one that would be larger than a message may be is packed (`shared.contracts.packing`)."""
        body = super().to_json()
        return body if len(body) <= MESSAGE_LIMIT_BYTES else packed(body)

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "") -> Self:
        """Parse a document, packed or not. Raises as every contract does."""
        return super().from_json(unpacked(data), where)

    @property
    def size(self) -> int:
        """Bytes of the smallest document of this message."""
        return len(packed(super().to_json()))

    @property
    def step(self) -> PinnedStep:
        """The step to be done now."""
        return self.steps[self.cursor]

    @property
    def tried(self) -> int:
        """How many attempts at the picture are behind the job."""
        return self.gate.finished if self.gate else 0

    @property
    def steps_again(self) -> tuple[PinnedStep, ...]:
        """The steps that each attempt at the picture does again; none where there is no gate."""
        if self.gate is None:
            return ()
        return self.steps[[step.name for step in self.steps].index(self.gate.back_to) :]

    @property
    def is_last(self) -> bool:
        """Whether the job is finished once this step is."""
        return self.cursor == len(self.steps) - 1
