"""`doctorgen models plan`: what the steps of a recipe would have in a GPU's memory, one process doing them all."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

from rich.table import Table

from doctor_image_gen.cli.console import console, print_table
from doctor_image_gen.cli.models import engine_of, parsed
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import Settings
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import Recipe
from shared.models.borrowing import Borrowing, borrowing
from shared.models.catalogue import load_models
from shared.models.forecast import Forecast, StepToRun, forecast
from shared.models.memory import WORKING_BYTES, Memory, Plan, device_memory, host_memory
from shared.models.needs import NEEDS_NONE, as_planned
from shared.models.process import budget
from shared.models.residency import gigabytes
from shared.models.settings import Fp8

MOST_GB = 100_000


def show(arguments: argparse.Namespace) -> int:
    """0 where every step can run, else 1."""
    settings = Settings.load()
    recipe = find_recipe(settings.user_folder, arguments.recipe)
    engine = engine_of(recipe, arguments.engine)
    device = _device(settings.vram_gb if arguments.vram is None else arguments.vram)
    host = host_memory() if arguments.ram is None else _memory("--ram", arguments.ram)
    steps = list(to_run(recipe, engine, settings.flux.fp8))
    found = forecast(steps, budget(device, host), settings.flux)
    if arguments.json:
        print(found.model_dump_json(indent=2))  # noqa: T201 - what --json is for
    else:
        _tell(recipe, found, device, host)
    return 0 if found.fits else 1


def to_run(recipe: Recipe, engine: str, fp8: Fp8 | None) -> Iterator[StepToRun]:
    """The recipe's steps with what each borrows, nothing where the portable engine does it."""
    engines = {step.name: step.engine or engine for step in recipe.steps}
    for step in recipe.steps:
        does = engines[step.name]
        if does == NEEDS_NONE:
            yield StepToRun(step.name, Borrowing())
            continue
        planned = as_planned(step, does)
        params = parsed(planned)
        source = step.inputs.get("identity", "").partition(".")[0]
        held = engines.get(source, NEEDS_NONE) != NEEDS_NONE
        identity = getattr(params, "identity_model", None) if held else None
        named = set(planned.params) | ({"encoder"} if getattr(params, "whose", "all") == "subject" else set())
        filled = params.model_dump(mode="json", include=named)  # with the defaults within: a control's model has one
        yield StepToRun(step.name, borrowing(load_models(), replace(planned, params=filled), identity, fp8))


def _device(vram_gb: float | None) -> Memory:
    if vram_gb is not None:
        return _memory("--vram", vram_gb)
    found = device_memory()
    if found is None:
        raise InvalidInput("--vram", "there is no GPU here to ask", "Say how much memory the GPU has: --vram 24.")
    return found


def _memory(field: str, size_gb: float) -> Memory:
    if not 0 < size_gb <= MOST_GB:
        raise InvalidInput(field, f"found {size_gb:g}", f"Say how many GB there are, up to {MOST_GB}.")
    size = int(size_gb * 1e9)
    return Memory(total_bytes=size, free_bytes=size)


def _tell(recipe: Recipe, found: Forecast, device: Memory, host: Memory) -> None:
    console.print(
        f"{recipe.name}, one job at a time, on a GPU with {gigabytes(device.free_bytes)}: {gigabytes(WORKING_BYTES)} "
        f"for the steps' working memory, {gigabytes(found.device_bytes)} for models. Of {gigabytes(host.free_bytes)} "
        f"of host memory models may take {gigabytes(found.host_bytes)}."
    )
    print_table(_table(found))
    if any(one.how == Plan.GROUP_OFFLOAD for step in found.first for one in step.models):
        console.print("group offload: blocks come from host memory at every step of the sampling, which is not counted")
    if found.fits:
        reads, moved = sum(step.loads for step in found.later), sum(step.moved_bytes for step in found.later)
        console.print(
            f"fits: {gigabytes(found.peak_bytes)} at most, working memory within. A further job reads {reads} models "
            f"from the disk and moves {gigabytes(moved)} onto the GPU."
        )
    else:
        console.print(f"does not fit: step {found.refused_step}: {found.refused}")


def _table(found: Forecast) -> Table:
    table = Table()
    table.add_column("step")
    table.add_column("models", overflow="fold")
    for heading in ("first job reads", "moves", "a further one moves", "models at most on the GPU"):
        table.add_column(heading, justify="right")
    for first, later in zip_longest(found.first, found.later):
        models = "\n".join(f"{one.name}: {one.how}" for one in first.models) or "-"
        again = "?" if later is None else _size(later.moved_bytes)
        peak = max(one.peak_bytes for one in (first, later) if one is not None)
        table.add_row(first.step, models, _size(first.loaded_bytes), _size(first.moved_bytes), again, gigabytes(peak))
    return table


def _size(size: int) -> str:
    return gigabytes(size) if size else "-"
