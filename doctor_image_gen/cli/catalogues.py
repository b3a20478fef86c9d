"""`doctorgen scenarios` and `doctorgen recipes`: what there is to choose from."""

import argparse
import json

from rich.table import Table

from doctor_image_gen.cli.console import console
from doctor_image_gen.recipes import load_recipes
from doctor_image_gen.settings import Settings
from shared.prompts.catalogue import load_catalogue


def scenarios(arguments: argparse.Namespace) -> int:
    """Scenarios and photography styles, the user's own included."""
    catalogue = load_catalogue(Settings.load().user_folder)
    if arguments.json:
        rows = {
            "scenarios": {name: {"title": one.name, "focus": one.focus} for name, one in catalogue.scenarios.items()},
            "styles": {name: {"title": one.name} for name, one in catalogue.styles.items()},
        }
        print(json.dumps(rows, indent=2))  # noqa: T201 - what --json is for
        return 0
    table = Table("scenario", "title", "focus")
    for name, scenario in catalogue.scenarios.items():
        table.add_row(name, scenario.name, scenario.focus)
    console.print(table, soft_wrap=False)
    console.print("styles: " + ", ".join(catalogue.styles))
    return 0


def recipes(arguments: argparse.Namespace) -> int:
    """Recipes and their steps."""
    known = load_recipes(Settings.load().user_folder)
    if arguments.json:
        print(json.dumps({name: one.model_dump(mode="json") for name, one in known.items()}, indent=2))  # noqa: T201
        return 0
    for recipe in known.values():
        console.print(f"{recipe.name} {recipe.version}: {recipe.title}")
        console.print("  " + " → ".join(step.operation for step in recipe.steps))
    return 0
