"""What a worker says of itself every few seconds."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Contract, Identifier, Instant, Name

WorkerState = Literal["idle", "working", "draining", "gone"]


class InHand(Contract):
    """A message that a worker works on."""

    job_id: Identifier
    step: Name
    since: Instant


class Beat(Contract):
    """A sign of life. Published on `doctorgen.events` under `worker.<name>.beat`."""

    schema_version: Literal[1] = 1
    worker: Annotated[str, Field(min_length=1, max_length=200)]
    stage: Name
    at: Instant
    started_at: Instant
    state: WorkerState
    in_hand: tuple[InHand, ...] = ()
    steps_done: Annotated[int, Field(ge=0)] = 0
    rss_bytes: Annotated[int, Field(ge=0)] = 0

    @property
    def routing_key(self) -> str:
        """`worker.<name>.beat`, dots in the name replaced so that topic patterns stay usable."""
        return f"worker.{self.worker.replace('.', '_')}.beat"
