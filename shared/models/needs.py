"""Which models a job's steps need: those that parameters name, an operation's defaults, and what these require."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from shared.contracts.recipe import Recipe, RecipeStep
from shared.models.catalogue import Model, ModelCatalogue

NEEDS_NONE = "portable"
"""The engine whose weights ship inside its libraries."""

NAMING = {
    "model",
    "identity_model",
    "encoder",
    "restorer",
    "detector",
    "upscaler",
    "hand_detector",
    "parser",
    "occluder",
    "recogniser",
    "controlnet",
    "ip_adapter",
}
"""Parameters whose value names a model, whether it is in the catalogue or not."""

NO_MODEL = {"", "none"}


class Step(Protocol):
    """What of a step decides on its models; a pinned step is one."""

    @property
    def name(self) -> str:
        """Of the step."""

    @property
    def operation(self) -> str:
        """As `swap.face`."""

    @property
    def engine(self) -> str:
        """As `flux`."""

    @property
    def params(self) -> Mapping[str, JsonValue]:
        """Of that engine."""


@dataclass(frozen=True)
class PlannedStep:
    """A recipe's step as one engine would do it."""

    name: str
    operation: str
    engine: str
    params: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Needs:
    """Models to steps that need them, and names of models that are not in the catalogue to steps."""

    models: Mapping[Model, tuple[str, ...]]
    unknown: Mapping[str, tuple[str, ...]]


def planned(recipe: Recipe, engine: str) -> tuple[PlannedStep, ...]:
    """The recipe's steps as that engine would do them, without anybody's overrides; some may insist on another."""
    return tuple(as_planned(step, step.engine or engine) for step in recipe.steps)


def as_planned(step: RecipeStep, engine: str) -> PlannedStep:
    """The step as that engine would do it, without anybody's overrides."""
    return PlannedStep(step.name, step.operation, engine, step.params | step.engines.get(engine, {}))


def needs(catalogue: ModelCatalogue, steps: Iterable[Step]) -> Needs:
    """What these steps need, in the order in which they need it."""
    models: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for step in steps:
        if step.engine == NEEDS_NONE:
            continue
        direct, strangers = _named(catalogue, step.params)
        roles = {model.role for model in direct}
        place = f"{step.operation}/{step.engine}"
        direct += [model for model in catalogue.values() if place in model.default_for and model.role not in roles]
        for model in dict.fromkeys(one for name in direct for one in catalogue.with_requirements(name.name)):
            models.setdefault(model.name, []).append(step.name)
        for name in strangers:
            unknown.setdefault(name, []).append(step.name)
    return Needs(
        {catalogue[name]: tuple(steps) for name, steps in models.items()},
        {name: tuple(steps) for name, steps in unknown.items()},
    )


def _named(catalogue: ModelCatalogue, params: Mapping[str, JsonValue]) -> tuple[list[Model], list[str]]:
    """The models that parameters name, and the names among them that the catalogue does not know.

    Any text that is a model's name counts, so that a new parameter cannot smuggle one past the licence policy.
    """
    known: dict[str, Model] = {}
    strangers: list[str] = []
    for key, text in _texts(params, ""):
        model = catalogue.named(text)
        if model is not None:
            known[model.name] = model
        elif key in NAMING and text.lower() not in NO_MODEL:
            strangers.append(text)
    return list(known.values()), strangers


def _texts(value: JsonValue | Mapping[str, JsonValue], key: str) -> Iterator[tuple[str, str]]:
    """Every text within parameters, with the name of the parameter or field that holds it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _texts(one, inner)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, key)
