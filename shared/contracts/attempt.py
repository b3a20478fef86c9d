"""How far a job has come with its gate, and what became of an attempt."""

from typing import Annotated

from pydantic import Field

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


class Attempt(Contract):
    """One attempt at a job's picture, judged."""

    number: AttemptCount
    seed: Seed | None = Field(default=None, description="what the step that was gone back to drew its numbers from")
    identity_weight: float | None = Field(default=None, description="None where no step has one")
    image: ArtifactRef
    verdict: ArtifactRef
    passed: bool
    identity_score: Fraction | None = None
    failed: Annotated[tuple[CheckName, ...], Field(max_length=MOST_CHECKS)] = Field(
        default=(), description="names of the checks that did not pass; the verdict has values and reasons"
    )
    seconds: Seconds = Field(description="worker seconds spent on this attempt")
    cost_usd: Usd
