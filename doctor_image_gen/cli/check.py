"""`doctorgen check`: is everything installed and reachable?"""

import argparse
from collections.abc import Callable
from importlib import import_module
from uuid import uuid4

from rich.console import Console

from doctor_image_gen.recipes import load_recipes
from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import OPERATIONS
from services.gateway.planner import ROOM_FOR_GROWTH_BYTES
from shared.broker.open import open_broker
from shared.broker.topology import topology
from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.errors import DoctorGenError
from shared.contracts.request import SubjectAttributes
from shared.jobs.open import open_job_store
from shared.prompts.catalogue import load_catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.open import open_store
from shared.worker.operation import EngineSpec

console = Console()

Probe = Callable[[Settings], str]


def check(_: argparse.Namespace) -> int:
    """Print a line for each thing that is looked at; 0 when all are well."""
    settings = Settings.load()
    probes: dict[str, Probe] = {
        "broker": _broker,
        "storage": _storage,
        "journal": _journal,
        "recipes": _recipes,
        "scenarios": _scenarios,
    }
    for operation in OPERATIONS.values():
        for name, spec in operation.engines.items():
            probes[f"{operation.name}, {name}"] = _engine(spec)
    well = [_report(name, probe, settings) for name, probe in probes.items()]
    return 0 if all(well) else 1


def _report(name: str, probe: Probe, settings: Settings) -> bool:
    try:
        console.print(f"[green]ok[/]    {name}: {probe(settings)}", highlight=False, soft_wrap=True)
    except (DoctorGenError, ImportError, OSError) as error:
        console.print(f"[red]fails[/] {name}: {error}", highlight=False, soft_wrap=True)
        return False
    return True


def _broker(settings: Settings) -> str:
    broker = open_broker(settings.broker_url.get_secret_value())
    try:
        broker.declare(topology(retry_ladder_ms=settings.retry.ladder_ms))
    finally:
        broker.close()
    return "embedded" if settings.embedded else "reachable, everything declared"


def _storage(settings: Settings) -> str:
    store = open_store(settings.storage_or_folder)
    key = f"inbox/check-{uuid4().hex}.bin"
    store.put(key, b"check", "application/octet-stream")
    found = store.get(key)
    store.delete(key)
    return "written, read and deleted" if found == b"check" else f"gave back {found!r}"


def _journal(settings: Settings) -> str:
    jobs = open_job_store(settings.jobs_url_or_file)
    try:
        newest = jobs.recent(1)
    finally:
        jobs.close()
    return f"newest job of {newest[0].created_at:%Y-%m-%d %H:%M}" if newest else "no job yet"


def _recipes(settings: Settings) -> str:
    recipes = load_recipes(settings.user_folder)
    for recipe in recipes.values():
        missing = [step.operation for step in recipe.steps if step.operation not in OPERATIONS]
        if missing:
            raise ImportError(f"recipe '{recipe.name}' wants {', '.join(missing)}, which no stage can do")
    return ", ".join(recipes)


def _scenarios(settings: Settings) -> str:
    catalogue = load_catalogue(settings.user_folder)
    room = MESSAGE_LIMIT_BYTES - ROOM_FOR_GROWTH_BYTES
    largest = max(
        len(compile_brief(catalogue, name, None, SubjectAttributes(), "").to_json()) for name in catalogue.scenarios
    )
    return f"{len(catalogue.scenarios)}, {len(catalogue.styles)} styles; the largest takes {largest} of {room} bytes"


def _engine(spec: EngineSpec) -> Probe:
    def probe(_: Settings) -> str:
        import_module(spec.factory.partition(":")[0])
        return ", ".join(spec.build().models) or "needs no weights"

    return probe
