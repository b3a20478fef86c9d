"""`doctorgen batch …`: file many jobs as one, and follow them."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doctor_image_gen.batch import BatchFile
from doctor_image_gen.batch_client import BatchClient
from doctor_image_gen.cli.console import console
from doctor_image_gen.client import Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.batch import BatchSummary
from shared.contracts.errors import InvalidInput


def submit(arguments: argparse.Namespace) -> int:
    """Print the new batch's id."""
    settings = Settings.load()
    if settings.embedded:
        raise InvalidInput(
            "broker_url",
            "the embedded pipeline ends with its process, so nobody would work the batch off",
            "Use `doctorgen generate --batch` or the SDK, or set DOCTORGEN_BROKER_URL=amqp://… and run workers.",
        )
    path = Path(arguments.file)
    batch = BatchFile.read(path)
    if arguments.batch_id is not None:
        batch = BatchFile.parse({**batch.model_dump(mode="json"), "batch_id": arguments.batch_id})
    with _connected(settings) as batches:
        console.print(batches.submit(batch, path.parent))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """How a batch stands."""
    with _connected(Settings.load()) as batches:
        _tell(batches.summary(arguments.batch_id), as_json=arguments.json)
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Print how the batch stands whenever that changes, until it ends; 0 when all its jobs are done."""
    settings = Settings.load()
    with _connected(settings) as batches:
        if settings.embedded and not batches.summary(arguments.batch_id).closed:
            raise InvalidInput(
                "batch_id",
                f"batch '{arguments.batch_id}' is in the process that was asked for it, out of reach from here",
                "Follow it there, with DoctorImageGenerator(...).wait_for_batch.",
            )

        def tell(summary: BatchSummary) -> None:
            if not summary.closed:
                _tell(summary, as_json=arguments.json)

        end = batches.follow(arguments.batch_id, tell)
    _tell(end, as_json=arguments.json)
    return 0 if end.by_state.keys() <= {"done"} else 1


@contextmanager
def _connected(settings: Settings) -> Iterator[BatchClient]:
    connections = Connections.open(settings)
    try:
        yield BatchClient(connections, Client(connections, settings.photo_limits))
    finally:
        connections.close()


def _tell(summary: BatchSummary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary.model_dump(mode="json")))  # noqa: T201 - what --json is for
        return
    states = ", ".join(f"{count} {state}" for state, count in summary.by_state.items()) or "no jobs yet"
    scores = (
        "" if summary.mean_score is None else f", likeness {summary.mean_score:.2f}, lowest {summary.lowest_score:.2f}"
    )
    passed = f", {summary.passed} passed" if summary.passed else ""
    console.print(
        f"{summary.batch_id} {summary.fraction:.0%} of {summary.jobs}: {states}{scores}{passed}, "
        f"{summary.seconds:.1f} s, {summary.cost_usd:.4f} USD" + (", ended" if summary.closed else "")
    )
    for failure in summary.failures if summary.closed else ():
        console.print(f"  {failure}")
