"""The dead letter: what is kept of a message that could not be worked off."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from shared.contracts.base import MESSAGE_LIMIT_BYTES, Contract, Digest, Identifier, Instant, Name
from shared.contracts.step import ErrorAccount, StepMessage

LINEAGE_HEADER = "x-lineage"
"""Of a body that is published again: the letter it comes from. Should it die again, that is another death."""


class DeadLetter(Contract):
    """A message that could not be worked off, with everything needed to understand and replay it.

    The one message that may exceed 16 KB: it holds a whole one and the account of its failure.
    """

    schema_version: Literal[1] = 1
    letter_id: Identifier = Field(description="the same for the same death, however often it is told")
    fingerprint: Identifier = Field(
        description="the same for deaths of one cause: stage, error type, message's pattern"
    )
    queue: str
    died_at: Instant
    worker: str
    job_id: Identifier | None = None
    batch_id: Identifier | None = None
    caller: Identifier | None = None
    subject: Identifier | None = None
    run: Annotated[int, Field(ge=0)] = 0
    step: Name | None = None
    step_key: Digest | None = None
    input_digests: dict[str, tuple[Digest, ...]] = Field(default_factory=dict)
    attempts: Annotated[int, Field(ge=0)]
    error: ErrorAccount
    message: StepMessage | None = Field(default=None, description="ready to be published again")
    body: Annotated[str, StringConstraints(max_length=MESSAGE_LIMIT_BYTES)] | None = Field(
        default=None, description="a body that could not be read or taken in; its first 16 KiB"
    )
