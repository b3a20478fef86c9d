"""`doctorgen check`: is everything installed and reachable?"""

import argparse
from collections.abc import Callable
from uuid import uuid4

from rich.text import Text

from doctor_image_gen.cli.console import console
from doctor_image_gen.cli.models import standings_for
from doctor_image_gen.recipes import find_recipe, load_recipes
from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import OPERATIONS
from services.gateway.planner import ROOM_FOR_GROWTH_BYTES
from shared.broker.open import open_broker
from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.errors import DoctorGenError, InvalidInput, Permanent
from shared.contracts.nearest import nearest
from shared.contracts.request import SubjectAttributes
from shared.jobs.open import open_job_store
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.needs import NEEDS_NONE
from shared.prompts.catalogue import load_catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.open import open_store
from shared.worker.operation import EngineSpec

Probe = Callable[[Settings], str]


def check(arguments: argparse.Namespace) -> int:
    """Print a line for each thing that is looked at; 0 when all are well.

    Of the engines only those of one name are built: the others' libraries and weights need not be there.
    """
    settings = Settings.load()
    engine = arguments.engine or settings.generation.engine
    known = _known_engines()
    if engine not in known:
        raise InvalidInput("--engine", f"there is no engine '{engine}'", nearest(engine, known))
    probes: dict[str, Probe] = {
        "broker": _broker,
        "storage": _storage,
        "journal": _journal,
        "recipes": _recipes,
        "scenarios": _scenarios,
    }
    for operation in OPERATIONS.values():
        if engine in operation.engines:
            probes[f"{operation.name}, {engine}"] = _engine(operation.engines[engine], engine)
    if engine != NEEDS_NONE:
        probes |= {"device": _device, "weights": _weights(engine)}
    well = [_report(name, probe, settings) for name, probe in probes.items()]
    return 0 if all(well) else 1


def _known_engines() -> list[str]:
    return sorted({name for operation in OPERATIONS.values() for name in operation.engines})


def _report(name: str, probe: Probe, settings: Settings) -> bool:
    try:
        _say("ok", "green", name, probe(settings))
    except DoctorGenError as error:
        _say("fails", "red", name, str(error))
        return False
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one part, the others are looked at too
        _say("fails", "red", name, f"{type(error).__name__}: {error}")
        return False
    return True


def _say(finding: str, colour: str, name: str, words: str) -> None:
    console.print(Text.assemble((f"{finding:<5}", colour), f" {name}: {words}"))


def _broker(settings: Settings) -> str:
    broker = open_broker(settings.broker_url.get_secret_value())
    try:
        broker.declare(settings.retry.topology)
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
    return ", ".join(load_recipes(settings.user_folder))


def _scenarios(settings: Settings) -> str:
    catalogue = load_catalogue(settings.user_folder)
    room = MESSAGE_LIMIT_BYTES - ROOM_FOR_GROWTH_BYTES
    largest = max(
        len(compile_brief(catalogue, name, None, SubjectAttributes(), "").to_json()) for name in catalogue.scenarios
    )
    return f"{len(catalogue.scenarios)}, {len(catalogue.styles)} styles; the largest takes {largest} of {room} bytes"


def _engine(spec: EngineSpec, name: str) -> Probe:
    """Of a GPU engine only that it can be imported, where it knows no weights before a recipe names them."""

    def probe(_: Settings) -> str:
        return ", ".join(spec.build().models(spec.params())) or (
            "needs no weights" if name == NEEDS_NONE else "installed"
        )

    return probe


def _device(_: Settings) -> str:
    return require_device(wanted_device(), torch_facts())


def _weights(engine: str) -> Probe:
    def probe(settings: Settings) -> str:
        recipe = find_recipe(settings.user_folder, settings.generation.recipe)
        found, standings = standings_for(settings, recipe, engine)
        lacking = sum(one.state != "ready" for one in standings.values()) + len(found.unknown)
        of_how_many = f"of {len(standings) + len(found.unknown)} models of the recipe {recipe.name}"
        if lacking:
            raise Permanent(f"{lacking} {of_how_many} are lacking. `doctorgen models check {recipe.name}` names them.")
        return f"none {of_how_many} is lacking"

    return probe
