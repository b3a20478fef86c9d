"""Whether and when a failed step is tried again: a value, decided apart from the doing."""

from collections.abc import Mapping
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_LADDER_MS = (500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 120_000, 300_000)


class RetryPolicy(BaseModel):
    """Exponential backoff with full jitter, on the rungs of a ladder.

    A rung is a queue with a time to live (see shared.broker.topology), so delays are chosen among a fixed few.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: Mapping[str, Annotated[int, Field(ge=1, le=100)]] = Field(
        default={"Transient": 8, "ResourceExhausted": 3},
        description="tries in all by error class; a class not named here is tried once",
    )
    base_delay_ms: Annotated[int, Field(ge=1)] = 1_000
    cap_ms: Annotated[int, Field(ge=1)] = 300_000
    ladder_ms: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = DEFAULT_LADDER_MS

    def delay_ms(self, kind: str, failed_attempts: int, rng: Random) -> int | None:
        """The rung to wait on after so many failed attempts (1 or more), or None: give up.

        Full jitter: uniform between nothing and min(cap, base * 2^(n-1)), then up to the next rung. Spreads a crowd
        of failures better than equal steps do (M. Brooker, "Exponential Backoff And Jitter", 2015).
        """
        if failed_attempts >= self.attempts.get(kind, 1):
            return None
        ceiling = min(self.cap_ms, self.base_delay_ms * 2 ** (failed_attempts - 1))
        wanted = rng.uniform(0, ceiling)
        return next((rung for rung in sorted(self.ladder_ms) if rung >= wanted), max(self.ladder_ms))
