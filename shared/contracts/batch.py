"""Several jobs filed together: many scenarios, many doctors, or both."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from shared.contracts.base import Contract, Fraction, Identifier, Instant, Name, Seconds, Seed, Usd
from shared.contracts.gate import AttemptCount
from shared.contracts.request import MOST_IMAGES, Consent, Images, Lane, PhotoRef, SubjectAttributes


class BatchSubject(Contract):
    """One of a batch's doctors."""

    subject: Identifier
    photos: Annotated[tuple[PhotoRef, ...], Field(min_length=1, max_length=5)]
    images: Images = Field(default_factory=dict, description="the person's own; before the scenario's and the batch's")
    attributes: SubjectAttributes = SubjectAttributes()
    consent: Consent | None = None


class BatchRequest(Contract):
    """Every subject in every scenario, each a job of its own. Published to `doctorgen.intake` under the key `batch`.

    Filed twice under one id it is one batch. Larger batches are filed in several requests of one `batch_id` with
    `part` and `parts`.
    """

    schema_version: Literal[1] = 1
    batch_id: Identifier
    part: Annotated[int, Field(ge=1)] = 1
    parts: Annotated[int, Field(ge=1, le=10_000)] = 1
    caller: Identifier = "anonymous"
    subjects: Annotated[tuple[BatchSubject, ...], Field(min_length=1, max_length=100)]
    scenarios: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    images: Images = Field(default_factory=dict, description="for every job; what they show is nobody's in particular")
    scenario_images: dict[Name, Images] = Field(
        default_factory=dict, description="for one scenario's jobs; before the batch's"
    )
    photography_style: Name | None = None
    custom_prompt: Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)] = ""
    recipe: Name | None = None
    engine: Name | None = None
    seed: Seed | None = None
    overrides: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    attempts: AttemptCount | None = Field(default=None, description="at each picture; the recipe's where absent")
    max_cost_usd: Usd | None = Field(default=None, description="of each job; the recipe's where absent")
    priority: Lane = "bulk"
    deadline: Instant | None = None

    @model_validator(mode="after")
    def _every_job_can_name_its_images(self) -> Self:
        others = self.scenario_images.keys() - set(self.scenarios)
        if others:
            raise ValueError(f"scenario_images names '{min(others)}', which is not among the scenarios")
        named = {*self.images}.union(*self.scenario_images.values(), *(one.images for one in self.subjects))
        if len(named) > MOST_IMAGES:
            raise ValueError(f"{len(named)} different images are named, and a recipe reads at most {MOST_IMAGES}")
        return self


class BatchSummary(Contract):
    """How a batch stands, or ended."""

    batch_id: Identifier
    caller: Identifier
    jobs: Annotated[int, Field(ge=0)]
    by_state: dict[str, int]
    fraction: Fraction = Field(description="of the batch's jobs, those that have ended")
    mean_score: Fraction | None = Field(default=None, description="identity score, over the jobs that have one")
    lowest_score: Fraction | None = None
    passed: Annotated[int, Field(ge=0)] = 0
    seconds: Seconds = 0.0
    cost_usd: Usd = 0.0
    closed: bool = Field(default=False, description="all its parts are in, all its jobs have ended, and that was told")
    failures: tuple[str, ...] = Field(default=(), description="the first few: job id, state and reason")


class BatchEvent(Contract):
    """`filed`, then `progress` as jobs end, then once `done`. Published under `batch.<id>.<kind>`."""

    schema_version: Literal[1] = 1
    event_id: Identifier
    kind: Literal["filed", "progress", "done"]
    batch_id: Identifier
    caller: Identifier
    at: Instant
    summary: BatchSummary

    @property
    def routing_key(self) -> str:
        """`batch.<batch id>.<kind>`, dots in the id replaced."""
        return f"batch.{self.batch_id.replace('.', '_')}.{self.kind}"
