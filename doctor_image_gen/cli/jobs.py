"""Commands about jobs that are worked off elsewhere: submit, watch, status, result, cancel."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from doctor_image_gen.cli.attempts import in_words
from doctor_image_gen.cli.console import console, errors, print_table
from doctor_image_gen.cli.wishes import options_of, request_of
from doctor_image_gen.client import Client
from doctor_image_gen.generator import requests_for
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.picture_file import make_room, write_whole
from doctor_image_gen.result import attempt_made, failure_of, metadata_of
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.errors import InvalidInput
from shared.contracts.event import TERMINAL, Event
from shared.jobs.port import Job
from shared.storage.artifacts import fetch


def submit(arguments: argparse.Namespace) -> int:
    """Print the new job's id."""
    settings = Settings.load()
    if settings.embedded:
        raise InvalidInput(
            "broker_url",
            "the embedded pipeline ends with its process, so nobody would work the job off",
            "Use `doctorgen generate`, or set DOCTORGEN_BROKER_URL=amqp://… and run workers.",
        )
    wish = {
        "photography_style": arguments.style,
        "custom_prompt": arguments.prompt,
        "idempotency_key": arguments.idempotency_key,
        **request_of(arguments),
    }
    with _connected(settings) as (_, client):
        options = GenerationOptions.parse(options_of(arguments))
        photos = [Path(photo) for photo in arguments.doctor_image]
        (request,) = requests_for(client, photos, [arguments.scenario], wish, options)
        console.print(client.submit(request))
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Print each event until the job ends; 0 when it is done, 1 otherwise."""

    def tell(event: Event) -> None:
        if arguments.json:
            print(event.to_json().decode())  # noqa: T201 - what --json is for
            return
        amount = "" if event.fraction is None else f" {event.fraction:.0%}"
        error = f": {event.error.message}" if event.error else ""
        attempted = f" after {in_words(attempt_made(event.attempted, None))}" if event.attempted else ""
        console.print(f"{event.at:%H:%M:%S} {event.step or 'job'} {event.kind}{amount}{attempted}{error}")

    settings = Settings.load()
    with _connected(settings) as (connections, client):
        known = connections.jobs.get(arguments.job_id)
        if known is None and not settings.embedded:
            errors.print(f"job '{arguments.job_id}' is not in the journal yet; waiting for it")
        if settings.embedded:
            _check_ended(client.job(arguments.job_id))
        job = client.follow(arguments.job_id, tell)
    if not arguments.json:
        console.print(f"{job.job_id} is {job.state}")
    return 0 if job.state == "done" else 1


def status(arguments: argparse.Namespace) -> int:
    """Show one job, or list the newest."""
    with _connected(Settings.load()) as (connections, client):
        jobs = [client.job(arguments.job_id)] if arguments.job_id else connections.jobs.recent(arguments.limit)
    if arguments.json:
        fields = {"first_message", "request", "brief"}
        print(json.dumps([job.model_dump(mode="json", exclude=fields) for job in jobs], indent=2))  # noqa: T201
        return 0
    table = Table("job", "state", "scenario", "created", "steps", "likeness", box=None, pad_edge=False)
    for job in jobs:
        table.add_row(*_row(job))
    print_table(table)
    for line in _attempts(jobs[0]) if arguments.job_id else ():
        console.print(line)
    if arguments.job_id and jobs[0].error:
        console.print(str(failure_of(jobs[0])))
    return 0


def _attempts(job: Job) -> list[str]:
    """A line for each attempt at the job's picture that is finished, where there is a gate."""
    made, kept = (job.attempts, None) if job.result is None else (job.result.attempts or (), job.result.kept)
    return [in_words(attempt_made(one, kept)) for one in made]


def _row(job: Job) -> tuple[str, ...]:
    finished = sum(step.state == "finished" for step in job.steps)
    score = job.result.summary.identity_score if job.result else None
    return (
        job.job_id,
        job.state,
        job.request.scenario if job.request else "",
        f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        f"{finished}/{len(job.steps)}",
        "" if score is None else f"{score:.2f}",
    )


def result(arguments: argparse.Namespace) -> int:
    """Print a finished job's metadata, and save its picture."""
    with _connected(Settings.load()) as (connections, client):
        job = client.job(arguments.job_id)
        if job.result is None:
            raise (
                failure_of(job)
                if job.error
                else InvalidInput(
                    "job_id", f"job '{job.job_id}' is still {job.state}", "`doctorgen watch` waits for its end."
                )
            )
        picture = fetch(connections.store, job.result.image)
        if arguments.output:
            make_room(Path(arguments.output))
            write_whole(Path(arguments.output), picture)
        print(json.dumps(metadata_of(connections, job, picture), indent=2))  # noqa: T201 - it is for machines too
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Tell all workers."""
    settings = Settings.load()
    with _connected(settings) as (_, client):
        job = client.job(arguments.job_id)
        if job.state in TERMINAL:
            raise InvalidInput("job_id", f"job '{job.job_id}' is {job.state} already", "There is nothing to cancel.")
        if settings.embedded:
            _check_ended(job)
        client.cancel(job.job_id)
    return 0


def _check_ended(job: Job) -> None:
    if job.state not in TERMINAL:
        raise InvalidInput(
            "job_id",
            f"job '{job.job_id}' is {job.state} in the process that was asked for it, out of reach from here",
            "Watch and interrupt it there; if that process is gone, run `doctorgen generate` again.",
        )


@contextmanager
def _connected(settings: Settings) -> Iterator[tuple[Connections, Client]]:
    connections = Connections.open(settings)
    try:
        yield connections, Client(connections, settings.photo_limits)
    finally:
        connections.close()
