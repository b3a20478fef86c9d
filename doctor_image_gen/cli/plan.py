"""`doctorgen models plan`: what the steps of a recipe would have in a GPU's memory, one process doing them all."""

import argparse
from collections.abc import Iterator, Sequence

from rich.table import Table

from doctor_image_gen.cli.console import console, wide
from doctor_image_gen.cli.engines import engine_of
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import Recipe
from shared.models.borrowing import Borrowing, borrowing
from shared.models.catalogue import load_models
from shared.models.forecast import Forecast, StepForecast, StepToRun, forecast
from shared.models.memory import WORKING_BYTES, Memory, device_memory, host_memory
from shared.models.needs import NEEDS_NONE, as_planned
from shared.models.process import budget
from shared.models.residency import gigabytes
from shared.models.settings import Fp8


def show(arguments: argparse.Namespace) -> int:
    """0 where every step can run, else 1."""
    settings = Settings.load()
    recipe = find_recipe(settings.user_folder, arguments.recipe)
    engine = engine_of(recipe, arguments.engine)
    device = _device(arguments.vram or settings.vram_gb)
    host = host_memory() if arguments.ram is None else _memory(arguments.ram)
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
        params = OPERATIONS[step.operation].engines[does].parse(dict(planned.params), step.name)
        source = step.inputs.get("identity", "").partition(".")[0]
        held = engines.get(source, NEEDS_NONE) != NEEDS_NONE
        identity = getattr(params, "identity_model", None) if held else None
        yield StepToRun(step.name, borrowing(load_models(), planned, identity, fp8))


def _device(vram_gb: float | None) -> Memory:
    if vram_gb is not None:
        return _memory(vram_gb)
    found = device_memory()
    if found is None:
        raise InvalidInput("--vram", "there is no GPU here to ask", "Say how much memory the GPU has: --vram 24.")
    return found


def _memory(size_gb: float) -> Memory:
    size = int(size_gb * 1e9)
    return Memory(total_bytes=size, free_bytes=size)


def _tell(recipe: Recipe, found: Forecast, device: Memory, host: Memory) -> None:
    console.print(
        f"{recipe.name}, one job at a time, on a GPU with {gigabytes(device.free_bytes)}: {gigabytes(WORKING_BYTES)} "
        f"for the steps' working memory, {gigabytes(found.device_bytes)} for models. Of {gigabytes(host.free_bytes)} "
        f"of host memory models may take {gigabytes(found.host_bytes)}."
    )
    jobs: list[tuple[str, Sequence[StepForecast]]] = [("first job", found.first), ("every further job", found.later)]
    for title, steps in jobs:
        if steps:
            wide.print(_table(title, steps))
    if found.fits:
        loads = sum(step.loads for step in found.later)
        moved = sum(step.moved_bytes for step in found.later)
        console.print(
            f"fits: {gigabytes(found.peak_bytes)} at most; a further job reads {loads} models from the disk and moves "
            f"{gigabytes(moved)} onto the GPU"
        )
    else:
        console.print(f"does not fit: step {found.refused_step}: {found.refused}")


def _table(title: str, steps: Sequence[StepForecast]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading, side in (("step", "left"), ("models", "left"), ("read", "right"), ("moved", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left", overflow="fold")
    table.add_column("at most on the GPU", justify="right")
    for step in steps:
        models = "\n".join(f"{one.name}: {one.how}" for one in step.models) or "-"
        read, moved = (gigabytes(size) if size else "-" for size in (step.loaded_bytes, step.moved_bytes))
        table.add_row(step.step, models, read, moved, gigabytes(step.peak_bytes))
    return table
