"""A recipe: a named, versioned list of steps with parameters. Data, not code."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from shared.contracts.base import Contract, Name, Parameters
from shared.contracts.gate import Gate
from shared.contracts.request import MOST_IMAGES, PHOTOS, ImageName

OperationName = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z0-9_]+$")]
SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+\.[a-z0-9_]+$")]
"""A named place for artifacts on a job's way: `request.photos`, `request.<image>` or `<step>.<output>`."""

REQUEST = "request"
REQUEST_PHOTOS = f"{REQUEST}.{PHOTOS}"
SIZE = ("width", "height")

_IMAGE_NAME: TypeAdapter[str] = TypeAdapter(ImageName)


def image_slot(name: str) -> str:
    """Where steps find the request's image of that name."""
    return f"{REQUEST}.{name}"


def stage_of(operation: str) -> str:
    """The stage that performs an operation: `swap` for `swap.face`."""
    return operation.split(".", 1)[0]


def judged_by_size(
    overrides: Mapping[str, Parameters], inputs: Mapping[str, Mapping[str, str]], result: str, verdict: str
) -> Mapping[str, Parameters]:
    """Overrides in which the step that judges expects the size that is asked of the step which makes the picture.

    So a size is said once. What is said of the judging step itself goes before it. One that judges another picture
    than the finished one, before it is enlarged say, expects what the recipe says.

    Args:
        overrides: parameters by step name.
        inputs: the slots that each step reads, by step name and input.
        result: the slot of the finished picture.
        verdict: the slot of the verdict.
    """
    maker, judge = result.partition(".")[0], verdict.partition(".")[0]
    if result not in inputs.get(judge, {}).values():
        return overrides
    size = {name: value for name, value in overrides.get(maker, {}).items() if name in SIZE}
    return {**overrides, judge: {**size, **overrides.get(judge, {})}} if size else overrides


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
    gate: Gate | None = Field(default=None, description="absent: a picture that fails is delivered all the same")

    @model_validator(mode="after")
    def _names_are_unique_and_inputs_come_before_use(self) -> Self:
        seen: set[str] = {REQUEST}
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

    @model_validator(mode="after")
    def _images_can_be_named_by_a_request(self) -> Self:
        for name in self.images:
            try:
                _IMAGE_NAME.validate_python(name)
            except ValidationError as error:
                raise ValueError(f"'{image_slot(name)}' is read, and no request can name an image so") from error
        if len(self.images) > MOST_IMAGES:
            raise ValueError(f"it reads {len(self.images)} images of the request, which names at most {MOST_IMAGES}")
        return self

    @model_validator(mode="after")
    def _the_gate_goes_back_from_the_end(self) -> Self:
        if self.gate is None:
            return self
        names = [step.name for step in self.steps]
        judge, back_to = self.verdict.split(".")[0], self.gate.back_to
        if names[-1] != judge:
            raise ValueError(f"a gate judges what is finished: make '{judge}', which gives the verdict, the last step")
        if back_to not in names[:-1]:
            raise ValueError(f"the gate goes back to '{back_to}', which is no step before '{judge}'")
        if self.result.split(".")[0] not in names[names.index(back_to) :]:
            raise ValueError(
                f"the gate goes back to '{back_to}', after '{self.result}' is made, which would stay as it is"
            )
        return self

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the images that a request has to bring beside the photos, in the order of their first use."""
        slots = [slot for step in self.steps for slot in step.inputs.values() if slot != REQUEST_PHOTOS]
        return tuple(dict.fromkeys(slot.partition(".")[2] for slot in slots if slot.startswith(f"{REQUEST}.")))
