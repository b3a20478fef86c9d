"""How long a step may take, and when a worker makes room for a fresh one."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Deadline = Annotated[float, Field(gt=0, le=24 * 3600)]


class WorkerLimits(BaseModel):
    """The `limits` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_deadline_s: Deadline = 900.0
    stage_deadline_s: Mapping[str, Deadline] = Field(default_factory=dict, description="for stages of their own")
    consumer_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=1800.0, description="the broker's consumer_timeout, as its operator has set it"
    )
    recycle_after_steps: Annotated[int, Field(ge=1)] | None = None
    recycle_above_bytes: Annotated[int, Field(ge=2**20)] | None = Field(default=None, description="resident memory")

    @model_validator(mode="after")
    def _deadlines_lie_below_the_consumer_timeout(self) -> Self:
        for name, deadline_s in {"every stage": self.step_deadline_s, **self.stage_deadline_s}.items():
            if deadline_s >= self.consumer_timeout_s:
                raise ValueError(
                    f"the step deadline of {name}, {deadline_s:g} s, must lie below the broker's consumer timeout of "
                    f"{self.consumer_timeout_s:g} s: the broker would take the message away from a working worker"
                )
        return self

    def deadline_s(self, stage: str) -> float:
        """How long a step of a stage may take."""
        return self.stage_deadline_s.get(stage, self.step_deadline_s)

    def longest_wait_s(self, stage: str) -> float:
        """How long a step may wait before it is computed: half of what the broker allows beyond the deadline."""
        return (self.consumer_timeout_s - self.deadline_s(stage)) / 2

    def is_spent(self, steps: int, rss_bytes: int) -> bool:
        """Whether a worker that has done so many steps and holds so much memory should make room."""
        too_many = self.recycle_after_steps is not None and steps >= self.recycle_after_steps
        too_large = self.recycle_above_bytes is not None and rss_bytes > self.recycle_above_bytes
        return too_many or too_large
