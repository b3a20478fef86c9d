"""`doctorgen models …`: the weights of the GPU engines on this machine."""

import argparse
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from doctor_image_gen.cli.console import console, errors, print_table
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.nearest import nearest
from shared.contracts.recipe import Recipe
from shared.models import prepare
from shared.models.catalogue import Model, ModelCatalogue, load_models
from shared.models.device import DEVICE, torch_facts, wanted_device
from shared.models.download import check_room, check_sources
from shared.models.download import download as bring
from shared.models.libraries import prepare_libraries
from shared.models.lock import forget
from shared.models.needs import NEEDS_NONE, Needs, PlannedStep, needs, planned
from shared.models.shelf import Shelf, Standing
from shared.models.sources import fetch

ABSENT = "missing"

TINY = {
    "tiny-flux": "shared.flux.tiny:write",
    "tiny-pulid": "services.identity.tiny:write",
    "tiny-hands": "shared.vision.networks.tiny:hands",
    "tiny-faces": "shared.vision.networks.tiny:faces",
    "tiny-insight": "shared.vision.networks.tiny:insight",
    "tiny-swapper": "shared.vision.networks.tiny:swapper",
    "tiny-restorer": "shared.vision.networks.tiny:restorer",
    "tiny-esrgan": "shared.vision.networks.tiny:esrgan",
    "tiny-yunet": "shared.vision.networks.tiny:yunet",
    "tiny-arcface": "shared.vision.networks.tiny:arcface",
}
"""Models of random numbers, and what makes their folders ("module:function")."""


def show_list(arguments: argparse.Namespace) -> int:
    """All weights of the catalogue, and how each stands."""
    shelf = _shelf()
    standings = [shelf.standing(model) for model in load_models().values()]
    if arguments.json:
        print(json.dumps([_row(one) for one in standings], indent=2))  # noqa: T201 - what --json is for
        return 0
    table = _table("model", "role", "size", "format", "licence", "commercial", "gated", "here")
    for one in standings:
        model = one.model
        here = "-" if one.state == ABSENT else one.state
        table.add_row(
            model.name,
            model.role,
            _size(model.size, approximate=model.approximate),
            model.format,
            model.licence,
            _yes(model.commercial),
            _yes(model.gated),
            here,
        )
    print_table(table)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """0 when everything that the recipe needs is there and converted, else 1."""
    settings = Settings.load()
    recipe = find_recipe(settings.user_folder, arguments.recipe)
    engine = engine_of(recipe, arguments.engine)
    found, standings = standings_for(settings, recipe, engine)
    lacking = [one for one in standings.values() if one.state != "ready"]
    well = not lacking and not found.unknown
    if arguments.json:
        rows = [_row(standings[model.name]) | {"steps": list(steps)} for model, steps in found.models.items()]
        document = {
            "recipe": recipe.name,
            "engine": engine,
            "ready": well,
            "models": rows,
            "not_in_catalogue": {name: list(steps) for name, steps in found.unknown.items()},
            "missing_bytes": _missing_bytes(lacking),
        }
        print(json.dumps(document, indent=2))  # noqa: T201 - the same
        return 0 if well else 1
    if well:
        words = f"all {len(standings)} models are there" if standings else "no models are needed"
        console.print(f"{recipe.name} with {_with(recipe, engine)}: {words}")
        return 0
    table = _table("model", "role", "size", "licence", "commercial", "state", "for steps")
    for one in lacking:
        model = one.model
        size = _size(model.size, approximate=model.approximate)
        steps = ", ".join(found.models[model])
        table.add_row(model.name, model.role, size, model.licence, _yes(model.commercial), one.state, steps)
    for name, wanted_by in found.unknown.items():
        table.add_row(name, "?", "?", "?", "?", "not in the catalogue", ", ".join(wanted_by))
    print_table(table)
    for one in lacking:
        if one.model.note:
            console.print(f"{one.model.name}: {one.model.note}")
    _tell_total(f"{recipe.name} with {_with(recipe, engine)}", len(standings), lacking)
    return 1


def download(arguments: argparse.Namespace) -> int:
    """Fetch weights, one after the other; what is there already is checked by its digest and left."""
    shelf, models = _shelf(), _models(load_models(), arguments.names)
    check_sources(models)
    check_room(shelf, models)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for model in models:
        console.print(f"{model.name}: {_size(model.size, approximate=model.approximate)} from {model.source}")
        with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:
            task = progress.add_task(model.name, total=None, visible=False)

            def report(name: str, done: int, total: int, progress: Progress = progress, task: int = task) -> None:
                progress.update(task, description=name, completed=done, total=total or None, visible=True)  # type: ignore[arg-type] # a TaskID is an int

            standing = bring(shelf, model, partial(fetch, report=report), repin=arguments.repin)
        _tell(standing)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """0 when every file is what was pinned, else 1. Pins files that are seen for the first time."""
    shelf, catalogue = _shelf(), load_models()
    models = _models(catalogue, arguments.names) or [model for model in catalogue.values() if shelf.present(model)]
    if not models:
        console.print(f"there are no models in {shelf.folder} yet")
    standings = []
    for model in models:
        standings.append(shelf.verify(model))
        _tell(standings[-1])
    return 1 if any(one.findings for one in standings) else 0


def convert(arguments: argparse.Namespace) -> int:
    """Make of a download what the engines load. The download may be deleted afterwards."""
    shelf = _shelf()
    for model in _models(load_models(), arguments.names):
        made = prepare.convert(shelf, model)
        console.print(f"{model.name}: " + (f"made {', '.join(made)}" if made else "is converted already"))
    return 0


def where(arguments: argparse.Namespace) -> int:
    """The models folder, or the paths of a weight's files, those that are yet to come included."""
    shelf = _shelf()
    if arguments.name is None:
        console.print(str(shelf.folder))
        return 0
    model = load_models().model(arguments.name)
    for file in dict.fromkeys([file.path for file in model.files] + list(model.gives)):
        console.print(str(shelf.path(model, file)))
    return 0


def tiny(arguments: argparse.Namespace) -> int:
    """Write models of random numbers, pin them, and say how to try them."""
    usual = Settings.load().models_folder
    shelf = Shelf(usual if arguments.folder is None else Path(arguments.folder).expanduser().absolute())
    for name, maker in TINY.items():
        forget(shelf.folder, name)
        _writer(maker)(shelf.folder / name)
        standing = shelf.verify(load_models()[name])
        size = sum(shelf.path(standing.model, file).stat().st_size for file in shelf.present(standing.model))
        console.print(f"{name}: {_size(size, approximate=False)} in {shelf.folder / name}")
    console.print(
        "These weights are random numbers. They know nobody and paint noise: they prove that an installation runs "
        "all stages, and nothing about pictures. To try them:"
    )
    console.print(f"  {_trial(shelf.folder, usual)}")
    return 0


def engine_of(recipe: Recipe, wanted: str | None) -> str:
    """The engine asked for, or the only one besides the portable one for the steps that name none of their own.

    Where every step insists on an engine of its own, any will do.

    Raises:
        InvalidInput: the recipe has no parameters for it, or for several where none is asked for.
    """
    if wanted is None and all(step.engine for step in recipe.steps):
        return NEEDS_NONE
    engines = sorted({engine for step in recipe.steps for engine in step.engines} - {NEEDS_NONE})
    free = sorted({engine for step in recipe.steps if not step.engine for engine in step.engines} - {NEEDS_NONE})
    if wanted is None and len(free) != 1:
        found = f"the recipe '{recipe.name}' has parameters for {len(free)} GPU engines"
        raise InvalidInput("--engine", found, f"Name one: {', '.join([*free, NEEDS_NONE])}.")
    if wanted is not None and wanted not in {*engines, NEEDS_NONE}:
        found = f"the recipe '{recipe.name}' has no parameters for an engine '{wanted}'"
        raise InvalidInput("--engine", found, nearest(wanted, [*engines, NEEDS_NONE]))
    return wanted or free[0]


def standings_for(settings: Settings, recipe: Recipe, engine: str) -> tuple[Needs, dict[str, Standing]]:
    """What the recipe needs with that engine, and how the models of the catalogue among it stand here, by name."""
    found = needs(load_models(), [_with_inner_defaults(step) for step in planned(recipe, engine)])
    shelf = Shelf(settings.models_folder)
    return found, {model.name: shelf.standing(model) for model in found.models}


def parsed(step: PlannedStep) -> BaseModel:
    """The step's parameters as its engine reads them.

    Raises:
        InvalidInput: its operation has no such engine, or they are none of that engine's.
    """
    engines = OPERATIONS[step.operation].engines
    if step.engine not in engines:
        found = f"step '{step.name}', {step.operation}, has no engine '{step.engine}'"
        raise InvalidInput("--engine", found, f"It has: {', '.join(engines)}.")
    return engines[step.engine].parse(dict(step.params), step.name)


def _with_inner_defaults(step: PlannedStep) -> PlannedStep:
    """The step with the defaults within what its parameters say: a control that names no model has one."""
    if step.engine == NEEDS_NONE:
        return step
    return replace(step, params=parsed(step).model_dump(mode="json", include=set(step.params)))


def _writer(maker: str) -> Callable[[Path], None]:
    prepare_libraries()
    module, _, name = maker.partition(":")
    try:
        write: Callable[[Path], None] = getattr(import_module(module), name)  # by name, when asked: it imports torch
    except ModuleNotFoundError as error:
        raise Permanent(
            f"{error.name} is not installed, and making models needs the GPU engines' libraries. Install "
            "requirements-gpu.txt and requirements-gpu-nodeps.txt, or run this on a worker's machine."
        ) from error
    return write


def _trial(folder: Path, usual: Path) -> str:
    """The command that uses the models of that folder, as a shell takes it."""
    settings = {} if folder == usual else {"DOCTORGEN_MODELS_DIR": str(folder)}
    facts = torch_facts()
    if wanted_device() != "cpu" and (facts is None or facts.devices == 0):
        settings[DEVICE] = "cpu"
    words = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    return " ".join([*words, "doctorgen generate --recipe rehearsal --doctor-image PHOTO --scenario consultant"])


def _shelf() -> Shelf:
    return Shelf(Settings.load().models_folder)


def _models(catalogue: ModelCatalogue, names: Iterable[str]) -> list[Model]:
    return [catalogue[name] for name in dict.fromkeys(catalogue.model(name).name for name in names)]


def _with(recipe: Recipe, engine: str) -> str:
    """Which engines do the recipe's steps, in words."""
    return "the engines that its steps name" if all(step.engine for step in recipe.steps) else f"engine {engine}"


def _row(one: Standing) -> dict[str, object]:
    model = one.model
    return {
        "name": model.name,
        "title": model.title,
        "role": model.role,
        "bytes": model.size,
        "approximate": model.approximate,
        "memory_bytes": model.memory_bytes,
        "format": model.format,
        "source": model.source,
        "licence": model.licence,
        "commercial": model.commercial,
        "note": model.note,
        "gated": model.gated,
        "used_by": list(model.used_by),
        "state": one.state,
        "findings": [str(finding) for finding in one.findings],
    }


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    return table


def _tell(one: Standing) -> None:
    for finding in one.findings:
        errors.print(str(finding))
    name = one.model.name
    if one.state == "to convert":
        console.print(f"{name}: is there; `doctorgen models convert {name}` makes it usable")
    elif not one.findings:
        console.print(f"{name}: {'ready' if one.model.loadable else 'is there, but cannot be converted yet'}")


def _tell_total(subject: str, wanted: int, lacking: Sequence[Standing]) -> None:
    elsewhere = [one for one in lacking if one.model.made_by is None]
    total = _size(_missing_bytes(elsewhere), approximate=any(one.model.approximate for one in elsewhere))
    console.print(f"{subject}: {wanted - len(lacking)} of {wanted} models are there; to download: {total}")
    to_download = [one.model for one in lacking if one.state != "to convert"]
    by_hand = [model.name for model in to_download if model.by_hand]
    fetched = [model.name for model in to_download if not model.by_hand and not model.made_by]
    to_convert = [one.model.name for one in lacking if one.model.gives]
    if fetched:
        console.print(f"  doctorgen models download {' '.join(fetched)}")
    for name in by_hand:
        console.print(f"  doctorgen models download {name}  # says how to come by it")
    for command in dict.fromkeys(model.made_by for model in to_download if model.made_by):
        console.print(f"  {command}")
    if to_convert:
        console.print(f"  doctorgen models convert {' '.join(to_convert)}")
    gated = [model.name for model in to_download if model.gated]
    if gated:
        console.print(f"Terms must be accepted on Hugging Face first, and HF_TOKEN be set, for: {', '.join(gated)}")


def _missing_bytes(lacking: Iterable[Standing]) -> int:
    return sum(one.model.size for one in lacking if one.state != "to convert")


def _size(size: int, *, approximate: bool) -> str:
    shown = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
    return f"≈ {shown}" if approximate else shown


def _yes(value: bool) -> str:
    return "yes" if value else "no"
