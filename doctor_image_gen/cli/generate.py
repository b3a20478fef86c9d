"""`doctorgen generate`: file one job or a batch, show the progress, save the pictures."""

import argparse
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from doctor_image_gen.cli.attempts import in_words
from doctor_image_gen.cli.catalogues import scenarios
from doctor_image_gen.cli.console import console, errors
from doctor_image_gen.cli.progress import Progress
from doctor_image_gen.cli.waits import waits_told
from doctor_image_gen.cli.wishes import options_of, request_of
from doctor_image_gen.generator import DoctorImageGenerator
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.result import Generated, Metadata
from doctor_image_gen.settings import Settings
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.event import TERMINAL, Event

LACKS_A_WEIGHT = "is missing. `doctorgen models "
"""How a job's error begins to tell of the mend."""


def generate(arguments: argparse.Namespace) -> int:
    """0 when every picture was made, 1 when a job of a batch was not."""
    if arguments.list_scenarios:
        return scenarios(arguments)
    _check(arguments)
    words: dict[str, Any] = {
        "photography_style": arguments.style,
        "custom_prompt": arguments.prompt,
        "settings": options_of(arguments),
        **request_of(arguments),
    }
    settings = Settings.load()
    recipe = find_recipe(settings.user_folder, words["settings"].get("recipe") or settings.generation.recipe)
    engine = words["settings"].get("engine") or settings.generation.engine
    check = f"`doctorgen models check {recipe.name} --engine {engine}`"
    lacking = f"{check} names all that is lacking{'' if settings.embedded else ', on the machine of the worker'}."
    heard: dict[str, None] = {}
    with (
        _interruption_told(settings, heard),
        waits_told(settings),
        _weights_told(lacking),
        DoctorImageGenerator(settings) as generator,
        Progress(recipe, quiet=arguments.json) as progress,
    ):

        def tell(event: Event) -> None:
            if event.kind in TERMINAL:
                heard.pop(event.job_id, None)
            else:
                heard[event.job_id] = None
            progress.tell(event)

        if arguments.batch:
            outcomes = generator.batch_generate(
                arguments.doctor_image, arguments.batch, output_dir=arguments.output_dir, on_event=tell, **words
            )
        else:
            outcomes = [
                generator.generate(
                    arguments.doctor_image, arguments.scenario, output_path=arguments.output, on_event=tell, **words
                )
            ]
    if arguments.json:
        print(json.dumps(outcomes if arguments.batch else outcomes[0], indent=2))  # noqa: T201 - what --json is for
    else:
        for outcome in outcomes:
            _say(outcome)
        if any(LACKS_A_WEIGHT in outcome.get("error", "") for outcome in outcomes):
            errors.print(lacking)
    return 0 if all(outcome["status"] == "done" for outcome in outcomes) else 1


@contextmanager
def _interruption_told(settings: Settings, heard: Collection[str]) -> Iterator[None]:
    """Say what becomes of the jobs when the user interrupts us. `heard`: those that have not ended."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        for line in _interrupted(interruption, heard, embedded=settings.embedded):
            errors.print(line)
        raise


def _interrupted(interruption: KeyboardInterrupt, heard: Collection[str], *, embedded: bool) -> list[str]:
    if embedded:
        called_off = "what was under way is called off; steps that were finished are not done again"
        return [f"interrupted: {note}" for note in getattr(interruption, "__notes__", [called_off])]
    if not heard:
        return ["interrupted, but what was filed goes on: doctorgen status lists the newest jobs"]
    return [f"interrupted, but the job goes on: doctorgen watch {one}, or doctorgen cancel {one}" for one in heard]


@contextmanager
def _weights_told(hint: str) -> Iterator[None]:
    """Where a job died for want of a weight, say how to see all that are lacking: it knows of the first alone."""
    try:
        yield
    except Permanent as error:
        if LACKS_A_WEIGHT in str(error):
            raise Permanent(f"{error} {hint}") from error
        raise


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.doctor_image:
        raise InvalidInput("--doctor-image", "no photo is named", "Name one to five photos of one person.")
    if bool(arguments.scenario) == bool(arguments.batch):
        raise InvalidInput(
            "--scenario",
            "exactly one of --scenario and --batch is needed",
            "Name one scenario, or several after --batch.",
        )
    if arguments.scenario and arguments.output_dir:
        raise InvalidInput("--output-dir", "it is for the pictures of --batch", "Name the picture with --output.")
    if arguments.batch and arguments.output:
        raise InvalidInput("--output", "a batch makes several pictures", "Name a folder with --output-dir.")


def _say(outcome: Generated) -> None:
    metadata = outcome.get("metadata")
    if metadata is None:
        console.print(f"{outcome['status']}: {outcome.get('error')}")
        return
    verdict = "passed" if metadata["verdict"]["passed"] else "failed: " + " ".join(metadata["verdict"]["reasons"])
    score = metadata["identity_score"]
    likeness = "not measured" if score is None else f"{score:.2f} ({metadata['identity_rating']})"
    console.print(
        f"{outcome['output_path']}\n"
        f"  {metadata['scenario_name']}, {metadata['resolution']}, "
        f"engine {metadata['model']}, seed {metadata['seed']}\n"
        f"  likeness {likeness}, verdict {verdict}\n"
        f"  {metadata['generation_time']:.1f} s, {metadata['cost_usd']:.4f} USD"
        + (f", reused: {', '.join(metadata['reused'])}" if metadata["reused"] else "")
        + "".join(f"\n  {line}" for line in _attempts(metadata))
        + "".join(f"\n  models under {licence}: {', '.join(models)}" for licence, models in _by_licence(metadata)),
    )


def _attempts(metadata: Metadata) -> list[str]:
    """A line for each attempt, where there was more than one."""
    made = metadata["attempts"]
    return [in_words(one) for one in made] if len(made) > 1 else []


def _by_licence(metadata: Metadata) -> list[tuple[str, list[str]]]:
    models: dict[str, list[str]] = {}
    for name, licence in sorted(metadata["licences"].items()):
        models.setdefault(licence, []).append(name)
    return sorted(models.items())
