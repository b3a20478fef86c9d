"""`doctorgen subject …` and `doctorgen retention …`: what is kept of people, and its removal."""

import argparse
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict

from doctor_image_gen.cli.agreement import agreed
from doctor_image_gen.cli.console import console, errors
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from doctor_image_gen.subjects import Holdings, checked, holdings
from doctor_image_gen.subjects import erase as erase_everything
from services.gateway.erase import ErasureReport
from services.gateway.retention import expire
from services.gateway.settings import Retention
from shared.contracts.base import now
from shared.contracts.errors import InvalidInput


def show(arguments: argparse.Namespace) -> int:
    """What there is of a person."""
    with closing(Connections.open(Settings.load())) as connections:
        found = holdings(connections, checked(arguments.subject))
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))  # noqa: T201 - what --json is for
    else:
        _tell_holdings(found)
    return 0


def erase(arguments: argparse.Namespace) -> int:
    """0 when nothing is left; 1 where a worker was still at work on the person, or the user does not agree."""
    settings = Settings.load()
    subject = checked(arguments.subject)
    with closing(Connections.open(settings)) as connections:
        if not arguments.yes:
            _tell_holdings(holdings(connections, subject))
        if not agreed(f"Erase everything of '{subject}', for good?", yes=arguments.yes):
            return 1
        report = erase_everything(connections, settings, subject)
    if arguments.json:
        print(json.dumps(asdict(report), indent=2))  # noqa: T201 - what --json is for
    else:
        _tell_report(report)
    return 1 if report.still_running else 0


def allow(arguments: argparse.Namespace) -> int:
    """Take in a person who was erased."""
    subject = checked(arguments.subject)
    with closing(Connections.open(Settings.load())) as connections:
        if not connections.jobs.is_entombed(subject):
            raise InvalidInput("subject", f"'{subject}' was not erased", "There is nothing to allow.")
        connections.jobs.exhume(subject)
    console.print(f"'{subject}' may be taken in again")
    return 0


def retain(arguments: argparse.Namespace) -> int:
    """Delete what is past its time, as the settings say; a gateway does so by itself once an hour."""
    settings = Settings.load()
    if settings.retention == Retention():
        raise InvalidInput("retention", "nothing has a time", "Set for instance DOCTORGEN_RETENTION__PHOTO_DAYS=30.")
    with closing(Connections.open(settings)) as connections:
        gone = expire(connections.store, connections.jobs, settings.retention, now())
    if arguments.json:
        print(json.dumps(dict(gone)))  # noqa: T201 - what --json is for
    else:
        console.print(f"deleted: {_counts(gone)}")
    return 0


def _tell_holdings(found: Holdings) -> None:
    console.print(f"subject {found.subject}" + (", erased: nothing of it is taken in" if found.erased else ""))
    for what in ("objects", "jobs", "letters"):
        console.print(f"  {what}: {_counts(getattr(found, what))}")


def _tell_report(report: ErasureReport) -> None:
    console.print(f"erased subject {report.subject}")
    console.print(f"  objects: {_counts(report.objects)}")
    console.print(f"  rows: {_counts(report.rows)}")
    console.print(f"  messages: {report.messages}")
    console.print(f"  saved pictures: {report.pictures}")
    for job_id in report.still_running:
        errors.print(f"job {job_id} was still in a worker's hands; erase once more when it has ended")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
