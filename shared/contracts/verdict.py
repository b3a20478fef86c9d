"""The judgement on a finished image."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Contract, Fraction

Rating = Literal["excellent", "good", "acceptable", "poor"]

SAME_PERSON = 0.60
"""The likeness at which the portable and the GPU encoders alike say: the same person."""


LIKENESS = "likeness"
"""The name of the check whether the picture's main face is enough like the subject."""


def rating_of(likeness: float) -> Rating:
    """Excellent >= 0.80, good >= 0.70, acceptable >= 0.60, poor below."""
    if likeness >= 0.80:
        return "excellent"
    if likeness >= 0.70:
        return "good"
    if likeness >= SAME_PERSON:
        return "acceptable"
    return "poor"


class Check(Contract):
    """One measure held against its bound."""

    name: str
    passed: bool
    value: float | None = Field(default=None, description="None where it could not be measured")
    bound: str = Field(description="in words, e.g. '15 to 25 % of the width'")
    reason: str


class Likeness(Contract):
    """How much the picture's main face is the subject's."""

    score: Fraction = Field(description="0.60 is the same-person boundary")
    rating: Rating
    distance: Annotated[float, Field(ge=0.0)] = Field(description="the encoder's raw distance")
    encoder: str = Field(description="which model measured it")


class VerdictSummary(Contract):
    """The verdict in one line, small enough for an event."""

    passed: bool
    identity_score: Fraction | None = None
    identity_rating: Rating | None = None
    reasons: tuple[str, ...]


class Verdict(Contract):
    """Pass or fail, with every measure and a reason for each failure."""

    schema_version: Literal[1] = 1
    passed: bool
    likeness: Likeness | None = Field(default=None, description="None where no face was found")
    checks: tuple[Check, ...]
    reasons: tuple[str, ...] = Field(description="of the failed checks; empty when passed")

    def summary(self) -> VerdictSummary:
        """What an event carries of this verdict."""
        return VerdictSummary(
            passed=self.passed,
            identity_score=self.likeness.score if self.likeness else None,
            identity_rating=self.likeness.rating if self.likeness else None,
            reasons=self.reasons,
        )
