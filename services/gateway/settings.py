"""The `gateway` and `retention` sections of the settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Days = Annotated[float, Field(gt=0, le=36_500)]


class GatewaySettings(BaseModel):
    """How many jobs may wait and be in flight, and how often the gateway looks around."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="jobs of a lane in flight; by the number of live workers where absent"
    )
    waiting_jobs: Annotated[int, Field(ge=100, le=10_000_000)] = Field(
        default=100_000, description="may wait in all; beyond, requests are turned away"
    )
    waiting_jobs_per_caller: Annotated[int, Field(ge=100, le=10_000_000)] = Field(
        default=20_000, description="the same of one caller"
    )
    look_after_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default=2.0, description="how often the releaser looks for jobs of which no bell told it"
    )
    worker_silent_after_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="a worker that has not beaten for so long is gone; several times beat_interval_s"
    )
    rescue_period_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=15.0, description="how often lost jobs are looked for"
    )


class Retention(BaseModel):
    """After how many days what is kept of people is deleted, by kind; absent: kept until the subject is erased."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photo_days: Days | None = Field(default=None, description="photos, those in the inbox too")
    identity_days: Days | None = Field(default=None, description="embeddings and landmarks")
    intermediate_days: Days | None = None
    result_days: Days | None = Field(default=None, description="finished pictures and their verdicts")
    job_days: Days | None = Field(default=None, description="rows of jobs that have ended, with their events")
