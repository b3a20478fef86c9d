"""Read the prompt folders: the built-in one and, on top of it, the user's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from shared.contracts.base import Contract, invalid_input
from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.scene import Backdrop
from shared.prompts.models import House, Scenario, Style

BUILT_IN = Path(__file__).parent
BACKDROP_LIMIT_BYTES = 3 * 1024
"""A backdrop travels in every message of its job, which must stay under 16 KB."""

LIST_THEM = "`doctorgen scenarios` lists the scenarios and styles."
LONGEST_SHOWN = 64
_SEE_DOCS = "docs/scenarios.md describes the fields."
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

C = TypeVar("C", bound=Contract)


@dataclass(frozen=True)
class Catalogue:
    """Everything a prompt can be compiled from, by key."""

    house: House
    scenarios: Mapping[str, Scenario]
    styles: Mapping[str, Style]
    backdrops: Mapping[str, Backdrop]

    def scenario(self, key: str) -> Scenario:
        """The scenario of that key.

        Raises:
            InvalidInput: unknown; offers the nearest names.
        """
        try:
            return self.scenarios[key]
        except KeyError:
            raise unknown("scenario", key, self.scenarios, LIST_THEM) from None

    def style(self, key: str) -> Style:
        """The photography style of that key.

        Raises:
            InvalidInput: unknown; offers the nearest names.
        """
        try:
            return self.styles[key]
        except KeyError:
            raise unknown("photography_style", key, self.styles, LIST_THEM) from None


def unknown(field: str, key: str, known: Iterable[str], listed_by: str = "") -> InvalidInput:
    """The refusal of a name that is not among the known ones, with those that come nearest."""
    shown = key if len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]}…"
    offer = nearest(shown.lower(), sorted(known))
    return InvalidInput(field, f"'{shown}' is not known", f"{offer} {listed_by}".strip())


def load_catalogue(user_folder: Path | None = None) -> Catalogue:
    """Read the built-in files and, over them, the user's: same names override, others are added.

    Args:
        user_folder: holds any of `scenarios/`, `styles/`, `backdrops/` and `house.yaml`. Files that lead outside it
            (links) are refused.

    Raises:
        InvalidInput: names the file, the field and the mend.
    """
    folders = [BUILT_IN]
    if user_folder is not None:
        if not user_folder.is_dir():
            raise InvalidInput("prompts", f"there is no folder '{user_folder}'", "Create it or name another.")
        folders.append(user_folder)
    scenarios: dict[str, Scenario] = {}
    styles: dict[str, Style] = {}
    backdrops: dict[str, Backdrop] = {}
    houses: list[House] = []
    for folder in folders:
        scenarios |= {key: _parse(Scenario, data, path) for key, path, data in _files(folder, "scenarios")}
        styles |= {key: _parse(Style, data, path) for key, path, data in _files(folder, "styles")}
        backdrops |= {key: _backdrop(data, path) for key, path, data in _files(folder, "backdrops")}
        house = folder / "house.yaml"
        if house.is_file():
            houses.append(_parse(House, _read(house, folder), "house.yaml"))
    for scenario in scenarios.values():
        _check_references(scenario, styles, backdrops)
    return Catalogue(houses[-1], scenarios, styles, backdrops)


def _files(folder: Path, kind: str) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Yield key, path as shown to the user, and content of each YAML file, in order of the names."""
    for path in sorted((folder / kind).glob("*.yaml")):
        data = _read(path, folder)
        if kind != "backdrops":
            data["key"] = path.stem
        yield path.stem, f"{kind}/{path.name}", data


def _read(path: Path, folder: Path) -> dict[str, Any]:
    shown = path.relative_to(folder).as_posix()
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(shown, "the file leads outside the prompt folder", "Put a copy of it into the folder.")
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=_LOADER)  # noqa: S506 - either loader is a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise InvalidInput(shown, f"it cannot be read as YAML: {reason}", "Correct the file.") from error
    if not isinstance(data, dict):
        raise InvalidInput(shown, "it is not a list of `field: value` lines", _SEE_DOCS)
    return data


def _parse(model: type[C], data: dict[str, Any], shown: str) -> C:
    """Validate as JSON, where a list is what a tuple is written as."""
    try:
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        found = invalid_input(error, "", model)
        raise InvalidInput(f"{shown}: {found.field}", found.found, f"{found.mend} {_SEE_DOCS}") from error
    except (TypeError, ValueError) as error:
        raise InvalidInput(shown, f"it holds what cannot be written as JSON ({error})", _SEE_DOCS) from error


def _backdrop(data: dict[str, Any], shown: str) -> Backdrop:
    backdrop = _parse(Backdrop, data, shown)
    size = len(backdrop.to_json())
    if size > BACKDROP_LIMIT_BYTES:
        raise InvalidInput(
            shown,
            f"it takes {size:,} bytes in a message",
            f"Leave out elements until it takes {BACKDROP_LIMIT_BYTES:,} at most.",
        )
    return backdrop


def _check_references(scenario: Scenario, styles: Mapping[str, Style], backdrops: Mapping[str, Backdrop]) -> None:
    shown = f"scenarios/{scenario.key}.yaml"
    if scenario.style not in styles:
        raise unknown(f"{shown}: style", scenario.style, styles)
    if scenario.backdrop not in backdrops:
        raise unknown(f"{shown}: backdrop", scenario.backdrop, backdrops)
