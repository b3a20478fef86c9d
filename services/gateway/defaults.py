"""What a deployment chooses for requests that do not say."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from shared.contracts.base import Name
from shared.models.policy import LicencePolicy


class GenerationDefaults(BaseModel):
    """The `generation` section of the settings. Read anew for the next job when the file changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Name = "portrait"
    engine: Name = "portable"
    photography_style: Name | None = Field(default=None, description="the scenario's own where absent")
    overrides: dict[Name, dict[str, JsonValue]] = Field(
        default_factory=dict, description="parameters by step name, under those of a request"
    )
    licence_policy: LicencePolicy = Field(
        default="research", description="commercial: refuse jobs that need a model whose licence forbids such use"
    )
    consent_required: bool = Field(default=False, description="refuse requests that state no consent")
