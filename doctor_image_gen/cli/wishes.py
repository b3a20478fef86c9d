"""From command line arguments to the SDK's."""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from doctor_image_gen.options import GenerationOptions
from shared.contracts.errors import InvalidInput
from shared.contracts.request import SubjectAttributes

OPTION_NAMES = {"max_cost_usd": "--max-cost", "deadline_s": "--deadline", "faces": "--face"}
"""Of the settings that the command line calls otherwise."""


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `settings` argument of the SDK.

    Raises:
        InvalidInput: one cannot be used; named as the option that the user typed.
    """
    plain = {
        "seed": arguments.seed,
        "recipe": arguments.recipe,
        "engine": arguments.engine,
        "attempts": arguments.attempts,
        "max_cost_usd": arguments.max_cost,
        "priority": arguments.priority,
        "deadline_s": arguments.deadline,
        "faces": tuple(arguments.face),
    }
    parameters = parameters_of(arguments.set)
    options = {name: value for name, value in plain.items() if value is not None} | parameters
    try:
        GenerationOptions.parse(options)
    except InvalidInput as error:
        name, *rest = error.field.removeprefix("settings.").split(".")
        option = OPTION_NAMES.get(name, f"--{name}")
        if name == "overrides":
            option = f"--set {'.'.join(rest)}".removesuffix(".[key]")
        elif name in parameters:
            option = f"--set {name}"
        raise InvalidInput(option, error.found, error.mend) from error
    return options


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The further keywords of the SDK."""
    attributes: dict[str, Any] = _assignments(arguments.attribute, "--attribute")
    unknown = attributes.keys() - SubjectAttributes.model_fields.keys()
    if unknown:
        known = ", ".join(SubjectAttributes.model_fields)
        raise InvalidInput("--attribute", f"there is no '{min(unknown)}'", f"There are: {known}.")
    if attributes.get("age", "").isdecimal():
        attributes["age"] = int(attributes["age"])
    wish: dict[str, Any] = {"attributes": attributes}
    if arguments.subject is not None:
        wish["subject"] = arguments.subject
    if arguments.consent is not None:
        wish["consent"] = {"basis": arguments.consent}
    if arguments.image:
        wish["images"] = images_of(arguments.image)
    return wish


def images_of(pairs: Sequence[str]) -> dict[str, str]:
    """Files by the names that the recipe has for them."""
    files: dict[str, str] = {}
    for pair in pairs:
        ((name, file),) = _assignments([pair], "--image").items()
        if name in files:
            raise InvalidInput("--image", f"'{name}' is given twice", "Give each image once.")
        if not file:
            raise InvalidInput("--image", f"'{pair}' names no file", "Write for instance --image pose=standing.png.")
        files[name] = file
    return files


def parameters_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Values are read as YAML: numbers, true, false, words, lists."""
    parsed = {}
    for name, value in _assignments(pairs, "--set").items():
        try:
            parsed[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise InvalidInput("--set", f"the value of '{name}' cannot be read", "Put it into quotes.") from error
    return parsed


def _assignments(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(option, f"'{pair}' is no NAME=VALUE", f"Write for instance {option} name=value.")
        parsed[name] = value
    return parsed
