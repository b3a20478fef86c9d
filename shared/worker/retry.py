"""Whether and when a failed step is tried again: a value, decided apart from the doing."""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.broker.port import Topology
from shared.broker.topology import DelayedRetry, topology

DEFAULT_LADDER_MS = (500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 120_000, 300_000)


class RetryRule(BaseModel):
    """How often, how soon and for how long one class of error is tried again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: Annotated[int, Field(ge=1, le=100, description="in all, the first one included")] = 1
    base_delay_ms: Annotated[int, Field(ge=1)] = 1_000
    cap_ms: Annotated[int, Field(ge=1)] = 300_000
    give_up_after_s: Annotated[float, Field(gt=0, description="since the first failure")] = 6 * 3600.0


ONCE = RetryRule()
DEFAULT_RULES: Mapping[str, RetryRule] = {
    "Transient": RetryRule(attempts=8),
    "QueueFull": RetryRule(attempts=100, give_up_after_s=24 * 3600.0),
    "ResourceExhausted": RetryRule(attempts=4, base_delay_ms=4_000),
    "DevicePoisoned": RetryRule(attempts=4, base_delay_ms=4_000),
    "StepTimedOut": RetryRule(attempts=3, base_delay_ms=4_000),
    "WorkerCrashed": RetryRule(attempts=6),
    "IntegrityError": RetryRule(attempts=4),
}


class RetryPolicy(BaseModel):
    """Rules by error class, and by stage where a stage needs its own. An error class without a rule is tried once.

    Delays are rungs of one ladder, because a rung is a queue with a time to live (shared.broker.topology).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Mapping[str, RetryRule] = Field(default_factory=dict, description="over the defaults")
    stages: Mapping[str, Mapping[str, RetryRule]] = Field(default_factory=dict, description="over the rules, by stage")
    ladder_ms: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = DEFAULT_LADDER_MS
    delayed_retry: DelayedRetry = Field(
        default="queues", description="one queue a rung, or `native`: RabbitMQ 4.3 and later delay by themselves"
    )

    @model_validator(mode="after")
    def _the_ladder_rises(self) -> Self:
        if list(self.ladder_ms) != sorted(set(self.ladder_ms)):
            raise ValueError(f"ladder_ms must rise from rung to rung, found {list(self.ladder_ms)}")
        return self

    @property
    def native_ms(self) -> tuple[int, int] | None:
        """The first and the longest delay of a broker that delays by itself; None where queues do."""
        return (self.ladder_ms[0], self.ladder_ms[-1]) if self.delayed_retry == "native" else None

    @property
    def topology(self) -> Topology:
        """Every exchange and queue of the pipeline, with what delayed retries need."""
        return topology(retry_ladder_ms=self.ladder_ms, delayed_retry=self.delayed_retry)

    def rule(self, stage: str, kind: str) -> RetryRule:
        """The rule for an error class at a stage."""
        return self.stages.get(stage, {}).get(kind) or self.rules.get(kind) or DEFAULT_RULES.get(kind, ONCE)

    def delay_ms(self, stage: str, kind: str, failed_attempts: int, failing_for_s: float, rng: Random) -> int | None:
        """The rung to wait on after so many failed attempts (1 or more), or None: give up.

        Full jitter: uniform between nothing and min(cap, base * 2^(n-1)), then up to the next rung. Spreads a crowd
        of failures better than equal steps do (M. Brooker, "Exponential Backoff And Jitter", 2015).
        """
        rule = self.rule(stage, kind)
        if failed_attempts >= rule.attempts or failing_for_s >= rule.give_up_after_s:
            return None
        ceiling = min(rule.cap_ms, rule.base_delay_ms * 2 ** (failed_attempts - 1))
        wanted = rng.uniform(0, ceiling)
        return next((rung for rung in self.ladder_ms if rung >= wanted), self.ladder_ms[-1])
