"""The gate: how often a job may try again for a picture that passes."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Contract, Name, Usd

MOST_ATTEMPTS = 8
WEIGHT = "identity_weight"
"""The parameter by which a step is held to the subject's identity."""

AttemptCount = Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)]
IdentityWeight = Annotated[float, Field(ge=0.0, le=3.0)]
WeightStep = Annotated[float, Field(ge=0.0, le=1.0)]


class Gate(Contract):
    """What a recipe does with a picture that fails: back to an earlier step with other seeds, within a budget.

    Where the likeness was too low, every step from there on that has an `identity_weight` gets it raised.
    """

    back_to: Name = Field(description="a step before the verdict's; it and all that follow are done again")
    attempts: AttemptCount = Field(default=3, description="in all; 1 accepts whatever comes")
    max_cost_usd: Usd | None = Field(
        default=None, description="no further attempt where one more, as dear as the last, would cost the job more"
    )
    identity_weight_step: WeightStep = Field(
        default=0.1, description="added to identity_weight after an attempt whose likeness was too low"
    )
    identity_weight_most: IdentityWeight = Field(default=1.2, description="beyond which it is not raised")
    engines: tuple[Name, ...] = Field(
        default=(), description="the gate acts where one of these does back_to; empty: whichever does it"
    )
