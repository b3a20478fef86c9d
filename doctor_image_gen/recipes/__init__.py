"""The recipes that ship with the product, and those of the user's folder."""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from doctor_image_gen.recipes.wiring import check_wiring
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.recipe import Recipe

ENDING = ".yaml"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""A recipe is read for each job that is taken in; libyaml reads it in a quarter of the time."""


def load_recipes(user_folder: Path | None) -> dict[str, Recipe]:
    """Built-in recipes by name, those under `<user folder>/recipes` added or put in their place.

    Raises:
        InvalidInput: as `find_recipe`, for whichever file is not usable.
    """
    return {name: _read(source) for name, source in _sources(user_folder).items()}


def find_recipe(user_folder: Path | None, name: str) -> Recipe:
    """The recipe of that name. Other recipes' files are not read, so a broken one is nobody else's trouble.

    Raises:
        InvalidInput: there is none, then the nearest names are offered; or its file is no YAML, no recipe, not named
            as the recipe is, or asks for what no stage can do: names the file and the field.
    """
    sources = _sources(user_folder)
    if name not in sources:
        raise InvalidInput("recipe", f"there is no recipe '{name}'", nearest(name, sources))
    return _read(sources[name])


def _sources(user_folder: Path | None) -> dict[str, Traversable]:
    """Each recipe's file by its name without the ending."""
    folders: list[Traversable] = [files(__name__)]
    if user_folder is not None:
        if not user_folder.is_dir():
            raise InvalidInput("user_folder", f"there is no folder '{user_folder}'", "Make it, or name another.")
        if (user_folder / "recipes").is_dir():
            folders.append(user_folder / "recipes")
    found = (source for folder in folders for source in sorted(folder.iterdir(), key=lambda source: source.name))
    return {source.name.removesuffix(ENDING): source for source in found if source.name.endswith(ENDING)}


def _read(source: Traversable) -> Recipe:
    shown = f"recipes/{source.name}"
    try:
        document = yaml.load(source.read_text("utf-8"), Loader=_LOADER)  # noqa: S506 - either loader is a safe one
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(shown, f"it cannot be read as YAML: {error}", "Correct the file.") from error
    try:
        recipe = Recipe.from_json(json.dumps(document, default=str))
        _check_name(recipe, source.name)
        check_wiring(recipe, OPERATIONS)
    except InvalidInput as error:
        raise InvalidInput(f"{shown}: {error.field}", error.found, error.mend) from error
    return recipe


def _check_name(recipe: Recipe, file_name: str) -> None:
    wanted = f"{recipe.name}{ENDING}"
    if wanted != file_name:
        raise InvalidInput("name", f"it is '{recipe.name}'", f"Call it as its file is called, or the file {wanted}.")
