"""The recipes that ship with the product, and those of the user's folder."""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.recipe import Recipe


def load_recipes(user_folder: Path | None) -> dict[str, Recipe]:
    """Built-in recipes by name, those under `<user folder>/recipes` added or put in their place.

    Raises:
        InvalidInput: a file is no YAML or no recipe; names the file and the field.
    """
    sources: list[Traversable] = sorted(files(__name__).iterdir(), key=lambda source: source.name)
    if user_folder is not None and (user_folder / "recipes").is_dir():
        sources += sorted((user_folder / "recipes").iterdir())
    read = (_read(source) for source in sources if source.name.endswith(".yaml"))
    return {recipe.name: recipe for recipe in read}


def find_recipe(user_folder: Path | None, name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InvalidInput: there is none; the nearest names are offered.
    """
    recipes = load_recipes(user_folder)
    if name not in recipes:
        raise InvalidInput("recipe", f"there is no recipe '{name}'", nearest(name, recipes))
    return recipes[name]


def _read(source: Traversable) -> Recipe:
    try:
        return Recipe.from_json(json.dumps(yaml.safe_load(source.read_text("utf-8"))))
    except yaml.YAMLError as error:
        raise InvalidInput(source.name, f"this is not YAML: {error}", "Mend the file.") from error
    except InvalidInput as error:
        raise InvalidInput(f"{source.name}: {error.field}", error.found, error.mend) from error
