"""The documents name tests, pages and commands that there are, and their examples work."""

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from inspect import isclass
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from doctor_image_gen.batch import BatchFile
from doctor_image_gen.cli.parser import build_parser
from doctor_image_gen.recipes.wiring import check_wiring
from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.gate import Gate
from shared.contracts.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
MEASURED = ROOT / "bench" / "RESULTS.md"
"""Written by `make bench`."""

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []
    functions = set(re.findall(r"`(test_\w+)`", text))
    assert [name for name in sorted(functions) if f"def {name}(" not in TESTS] == []


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    lines = [re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {line.strip().replace(" ", "-") for line in lines}


def test_every_link_leads_somewhere(page: Path) -> None:
    """To a page or file that there is, and to a heading of it where one is named."""
    for link in re.findall(r"\]\(([^)\s]+)", page.read_text("utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists() or target == MEASURED, link
        assert not heading or heading in headings(target), link


def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:shared|services|bench|doctor_image_gen|docs)/[\w/.]+)`", page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_page_names_a_folder_of_the_machine_that_it_was_written_on(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|home|root|tmp)/\S*", page.read_text("utf-8")) == []


def leaves(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Each command, and its options."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    for group in groups:
        for word, command in group.choices.items():
            yield from leaves(command, f"{name} {word}".strip())
    if not groups:
        yield name, {option for option in parser._option_string_actions if option.startswith("--")} - {"--help"}  # noqa: SLF001


def test_every_option_says_what_it_is_for() -> None:
    silent = []
    parsers = [("doctorgen", build_parser())]
    for name, parser in parsers:
        for action in parser._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                parsers += [(f"{name} {word}", command) for word, command in action.choices.items()]
            elif action.option_strings and not action.help:
                silent.append(f"{name} {action.option_strings[0]}")
    assert silent == []


COMMANDS = dict(leaves(build_parser()))
OF_A_REQUEST = {"generate", "submit"}
FILTERS = COMMANDS["dead export"]
"""Which the page of commands tells once for all."""


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_the_page_of_commands_has_every_command_and_every_option_and_no_others() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert options_in(text) - {"--help", "--version"} == set().union(*COMMANDS.values())
    rows = dict(re.findall(r"^\| `([a-z]+(?: [a-z]+)?)[^`]*` \| (.*)$", text, re.MULTILINE))
    assert rows.keys() | OF_A_REQUEST == COMMANDS.keys()
    for command, row in rows.items():
        told = options_in(row)
        assert COMMANDS[command] - FILTERS <= told <= COMMANDS[command], command
    request = text.partition("## Make a picture")[2].partition("## Follow jobs")[0]
    assert options_in(request) == COMMANDS["generate"] | COMMANDS["submit"]


def settings_of(model: type[BaseModel], section: str = "") -> Iterator[str]:
    """Every setting by its full name, `storage.url`; of a list or mapping of sections only its own name."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if isclass(one)]
        sections = [one for one in inner if issubclass(one, BaseModel)]
        if sections and get_origin(field.annotation) is not Mapping:
            yield from settings_of(sections[0], f"{section}{name}.")
        else:
            yield f"{section}{name}"


SETTINGS = set(settings_of(Settings))
SECTIONS = {name.rpartition(".")[0] for name in SETTINGS} - {""}


def test_every_setting_is_on_a_page() -> None:
    """By its full name, or by its last one on the page that its section's row leads to, or in that row."""
    operate = (ROOT / "docs" / "operate.md").read_text("utf-8")
    elsewhere = {
        "photo_limits": "photos.md",
        "flux": "speed.md",
        "retention": "subjects.md",
        "generation": "operate.md",
    }
    missing = []
    for name in sorted(SETTINGS):
        section, _, last = name.rpartition(".")
        page = (ROOT / "docs" / elsewhere.get(section, "operate.md")).read_text("utf-8")
        if f"`{name}`" not in operate and not (section in elsewhere and re.search(rf"\b{last}\b", page)):
            missing.append(name)
    assert missing == []


def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    """In the table of settings, and as names in the environment; DOCTORGEN_BROKER_ULR is there as a slip."""
    text = page.read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) if page.name == "operate.md" else []
    named = [name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)]
    assert set(named) <= SETTINGS | SECTIONS
    known = {f"DOCTORGEN_{name.upper().replace('.', '__')}" for name in SETTINGS}
    known |= {"DOCTORGEN_CONFIG", "DOCTORGEN_DEVICE", "DOCTORGEN_BROKER_ULR"}
    variables = re.findall(r"\bDOCTORGEN_[A-Z_]*[A-Z]\b(?!_)", text)
    assert [name for name in variables if name not in known] == []


def test_every_command_that_a_page_shows_is_understood(page: Path) -> None:
    """Lines of code blocks that begin with `doctorgen`, those with an ellipsis or several commands apart."""
    lines = re.findall(r"^ {4}(?:\$ )?(?:\S*bin/)?doctorgen (.*)$", page.read_text("utf-8"), re.MULTILINE)
    commands = [line.split("  ")[0].split(" # ")[0] for line in lines if "…" not in line and " | " not in line]
    for command in commands:
        build_parser().parse_args(shlex.split(command))


def block(page: str, marker: str) -> object:
    """The YAML block of a page that holds these words."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    (found,) = [one for one in blocks if marker in one]
    document: object = yaml.safe_load(found)
    return document


def test_the_batch_of_the_batches_page_is_one() -> None:
    batch = BatchFile.parse(block("batches.md", "batch_id"))
    assert len(batch.subjects) == 2
    assert batch.subjects[1].faces == (2,)


def test_the_recipe_of_the_scenarios_page_fits_the_stages() -> None:
    recipe = Recipe.model_validate(block("scenarios.md", "name: sketch"), strict=False)
    check_wiring(recipe, OPERATIONS)
    assert [step.name for step in recipe.steps] == ["identity", "generate", "qa"]


def test_the_gate_that_its_page_shows_is_one() -> None:
    shown = block("gate.md", "gate:")
    assert isinstance(shown, dict)
    assert Gate.from_json(json.dumps(shown["gate"])).back_to == "generate"
