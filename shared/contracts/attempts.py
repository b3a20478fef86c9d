"""What a job remembers of its attempts between one and the next: too much for a message, so it lies in the store."""

from typing import Literal

from shared.contracts.attempt import Attempt
from shared.contracts.base import Contract
from shared.contracts.step import StepRecord
from shared.contracts.verdict import VerdictSummary


class AttemptRecord(Contract):
    """An attempt, and what is told of it should it be the one that is kept."""

    attempt: Attempt
    summary: VerdictSummary
    trail: tuple[StepRecord, ...]


class Attempts(Contract):
    """The finished attempts of a job, in their order."""

    schema_version: Literal[1] = 1
    attempts: tuple[AttemptRecord, ...]
