"""How far a job has come with its gate, and what became of an attempt."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import Contract, Fraction, Name, Seconds, Seed, Usd
from shared.contracts.gate import MOST_ATTEMPTS, AttemptCount, IdentityWeight, WeightStep

CHECK_NAME_CHARACTERS = 24
MOST_CHECKS = 16
CheckName = Annotated[str, Field(max_length=CHECK_NAME_CHARACTERS)]


class PinnedGate(Contract):
    """A gate made definite for one job, and how far the job has come with it."""

    back_to: Name
    attempts: AttemptCount
    max_cost_usd: Usd | None = None
    identity_weight_step: WeightStep
    identity_weight_most: IdentityWeight
    finished: Annotated[int, Field(ge=0, lt=MOST_ATTEMPTS)] = Field(
        default=0, description="attempts whose picture did not pass"
    )
    record: ArtifactRef | None = Field(default=None, description="of these attempts: a document `Attempts`")


class AttemptError(Contract):
    """Why an attempt came to no picture. Its dead letter has the whole account."""

    step: Name
    kind: str = Field(description="a class of shared.contracts.errors, e.g. 'ResourceExhausted'")
    message: Annotated[str, StringConstraints(max_length=500)]
    field: str | None = Field(default=None, description="of an InvalidInput: where in the request")
    hint: Annotated[str, StringConstraints(max_length=500)] = Field(description="what would help")


class Attempt(Contract):
    """One attempt at a job's picture: judged, or broken off by an error."""

    number: AttemptCount
    seed: Seed | None = Field(default=None, description="what the step that was gone back to drew its numbers from")
    identity_weight: float | None = Field(default=None, description="None where no step has one")
    image: ArtifactRef | None = Field(default=None, description="absent where an error broke it off")
    verdict: ArtifactRef | None = Field(default=None, description="absent where an error broke it off")
    passed: bool
    identity_score: Fraction | None = None
    failed: Annotated[tuple[CheckName, ...], Field(max_length=MOST_CHECKS)] = Field(
        default=(), description="names of the checks that did not pass; the verdict has values and reasons"
    )
    seconds: Seconds = Field(description="worker seconds spent on this attempt")
    cost_usd: Usd
    error: AttemptError | None = Field(
        default=None, description="what broke it off; only the last of a job's attempts may have one"
    )

    @model_validator(mode="after")
    def _judged_or_broken_off(self) -> Self:
        if not (self.image is None) == (self.verdict is None) == (self.error is not None):
            raise ValueError(f"attempt {self.number} must have a picture and its verdict, or an error instead")
        return self
