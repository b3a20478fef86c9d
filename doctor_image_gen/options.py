"""The `settings` argument of the SDK."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shared.contracts.base import Name, Seed, Usd, invalid_input
from shared.contracts.errors import InvalidInput
from shared.contracts.gate import AttemptCount
from shared.contracts.request import Lane

LONGEST_WAIT_S = 30 * 24 * 3600.0
OF_REQUEST = {"seed", "recipe", "engine", "attempts", "max_cost_usd", "priority", "overrides"}


class GenerationOptions(BaseModel):
    """The `settings` of `generate`: everything about a job beyond photos, scenario, style and words.

    `refine.grain: 0.5` is short for `overrides: {refine: {grain: 0.5}}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Seed | None = None
    recipe: Name | None = None
    engine: Name | None = None
    attempts: AttemptCount | None = None
    max_cost_usd: Usd | None = None
    priority: Lane = "interactive"
    deadline_s: Annotated[float, Field(gt=0, le=LONGEST_WAIT_S)] | None = None
    faces: tuple[Annotated[int, Field(ge=1, le=20)] | None, ...] = ()
    overrides: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    include_base64: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=LONGEST_WAIT_S)] | None = None

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Raises InvalidInput naming the setting."""
        plain = {name: value for name, value in settings.items() if "." not in name}
        try:
            options = cls.model_validate(plain)
            overrides = {step: dict(params) for step, params in options.overrides.items()}
            for name, value in settings.items():
                if "." in name:
                    step, _, parameter = name.partition(".")
                    overrides.setdefault(step, {})[parameter] = value
            return cls.model_validate({**plain, "overrides": overrides})
        except ValidationError as error:
            found = invalid_input(error, "settings", cls)
            if error.errors()[0]["type"] != "extra_forbidden":
                raise found from error
            mend = f"{found.mend} A step's parameter is written with its step, as refine.grain is."
            raise InvalidInput(found.field, found.found, mend) from error

    def of_request(self) -> dict[str, Any]:
        """Those that are fields of a JobRequest, under their names there."""
        return self.model_dump(include=OF_REQUEST)
