"""The `settings` argument of the SDK."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shared.contracts.base import Name, Seed, invalid_input
from shared.contracts.request import Lane


class GenerationOptions(BaseModel):
    """The `settings` of `generate`: everything about a job beyond photos, scenario, style and words.

    `refine.grain: 0.5` is short for `overrides: {refine: {grain: 0.5}}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Seed | None = None
    recipe: Name | None = None
    engine: Name | None = None
    priority: Lane = "interactive"
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    faces: tuple[Annotated[int, Field(ge=1, le=20)] | None, ...] = ()
    overrides: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    include_base64: bool = False
    timeout_s: Annotated[float, Field(gt=0)] | None = None

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Raises InvalidInput naming the setting."""
        plain = {name: value for name, value in settings.items() if "." not in name}
        overrides = {step: dict(params) for step, params in plain.pop("overrides", {}).items()}
        for name, value in settings.items():
            if "." in name:
                step, _, parameter = name.partition(".")
                overrides.setdefault(step, {})[parameter] = value
        try:
            return cls.model_validate({**plain, "overrides": overrides})
        except ValidationError as error:
            raise invalid_input(error, "settings", cls) from error

    def of_request(self) -> dict[str, Any]:
        """Those that are fields of a JobRequest, under their names there."""
        return self.model_dump(include={"seed", "recipe", "engine", "priority", "overrides"})
