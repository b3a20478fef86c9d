"""The documents name tests, pages and commands that there are, and their examples work."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from doctor_image_gen.batch import BatchFile
from doctor_image_gen.cli.parser import build_parser
from doctor_image_gen.recipes.wiring import check_wiring
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


def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    ours = [(page.parent / link).resolve() for link in links if "://" not in link]
    assert [str(path) for path in ours if not path.exists() and path != MEASURED] == []


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
