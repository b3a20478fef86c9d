"""From command line arguments to the SDK's."""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from shared.contracts.errors import InvalidInput
from shared.contracts.request import Consent, SubjectAttributes


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `settings` argument of the SDK."""
    plain = {
        "seed": arguments.seed,
        "recipe": arguments.recipe,
        "engine": arguments.engine,
        "priority": arguments.priority,
        "deadline_s": arguments.deadline,
        "faces": tuple(arguments.face),
    }
    return {name: value for name, value in plain.items() if value is not None} | _assignments(arguments.set, "--set")


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The further keywords of the SDK."""
    attributes = _assignments(arguments.attribute, "--attribute")
    unknown = attributes.keys() - SubjectAttributes.model_fields.keys()
    if unknown:
        known = ", ".join(SubjectAttributes.model_fields)
        raise InvalidInput("--attribute", f"there is no '{min(unknown)}'", f"There are: {known}.")
    wish: dict[str, Any] = {"attributes": attributes}
    if arguments.subject is not None:
        wish["subject"] = arguments.subject
    if arguments.consent is not None:
        wish["consent"] = Consent(basis=arguments.consent)
    return wish


def _assignments(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`NAME=VALUE` words as a mapping; values are read as YAML scalars: numbers, true, false, words."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(option, f"'{pair}' is no NAME=VALUE", f"Write for instance {option} name=value.")
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidInput(option, f"the value of '{name}' cannot be read", "Put it into quotes.") from error
    return parsed
