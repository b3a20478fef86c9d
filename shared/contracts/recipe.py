"""A recipe: a named, versioned list of steps with parameters. Data, not code."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.base import Contract, Name, Parameters

OperationName = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z0-9_]+$")]
SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+\.[a-z0-9_]+$")]
"""A named place for artifacts on a job's way: `request.photos` or `<step>.<output>`."""

REQUEST_PHOTOS = "request.photos"


def stage_of(operation: str) -> str:
    """The stage that performs an operation: `swap` for `swap.face`."""
    return operation.split(".", 1)[0]


class RecipeStep(Contract):
    """One operation of one stage, with its parameters and named inputs."""

    name: Name
    operation: OperationName
    inputs: dict[Name, SlotName]
    brief: tuple[str, ...] = Field(default=(), description="fields of the compiled brief that become parameters")
    params: Parameters = Field(default_factory=dict, description="for whichever engine runs the step")
    engines: dict[Name, Parameters] = Field(default_factory=dict, description="on top of params, for one engine")
    engine: Name | None = Field(default=None, description="does this step whatever engine the job asks for")


class Recipe(Contract):
    """Steps in order. A step's inputs come from the request or from a step before it."""

    schema_version: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1)]
    title: str
    steps: Annotated[tuple[RecipeStep, ...], Field(min_length=1, max_length=16)]
    result: SlotName
    verdict: SlotName

    @model_validator(mode="after")
    def _names_are_unique_and_inputs_come_before_use(self) -> Self:
        seen: set[str] = {"request"}
        for step in self.steps:
            if step.name in seen:
                raise ValueError(f"step name '{step.name}' is used twice; give each step its own")
            for slot in step.inputs.values():
                if slot.split(".")[0] not in seen:
                    raise ValueError(f"step '{step.name}' reads '{slot}', which no earlier step makes")
            seen.add(step.name)
        for slot in (self.result, self.verdict):
            if slot.split(".")[0] not in seen:
                raise ValueError(f"'{slot}' is made by no step")
        return self
