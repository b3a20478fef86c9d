"""Runs workers as a process: `python -m services.<stage>`, or several stages with `doctorgen worker`."""

import logging
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from shared.broker.open import open_broker
from shared.broker.port import Broker
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.telemetry.logs import log_to_stderr
from shared.worker.dispatch import Origin
from shared.worker.figures import device_figures, process_turnstile
from shared.worker.health import health_told, loaded
from shared.worker.operation import Stage
from shared.worker.process import serve
from shared.worker.settings import WorkerSettings
from shared.worker.worker import Observer, Worker, nobody

log = logging.getLogger(__name__)


def worker_name(stage: str) -> str:
    """Host, stage and process, e.g. `node7.swap.4711`."""
    return f"{socket.gethostname()}.{stage}.{os.getpid()}"


def run(*stages: Stage, observe: Observer = nobody) -> int:
    """Work until SIGTERM or SIGINT, or until the worker's limits say that a fresh process should go on.

    Each stage has a thread of its own; on the process's device they take turns. The current steps get
    `shutdown_grace_s` to finish; after that their messages are handed back. The exit status is 0; 1 when a worker broke
    (a step hangs, the device is poisoned), 2 when it could not be started.
    """
    log_to_stderr()
    try:
        settings = WorkerSettings.load()
        broker, store = _open(settings)
    except DoctorGenError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says what to mend; a traceback would bury it
        return 2
    with ExitStack() as stack:
        stack.callback(broker.close)
        return _run(stages, settings, broker, store, observe, stack)


def _open(settings: WorkerSettings) -> tuple[Broker, ArtifactStore]:
    url = settings.broker_url.get_secret_value()
    if url.startswith("memory:"):
        raise InvalidInput(
            "broker_url",
            "memory:// lives within one process, and a worker process is alone in its own",
            "Set DOCTORGEN_BROKER_URL=amqp://…",
        )
    store = open_store(settings.storage)
    broker = open_broker(url)
    broker.declare(settings.retry.topology)
    return broker, store


def _run(
    stages: Sequence[Stage],
    settings: WorkerSettings,
    broker: Broker,
    store: ArtifactStore,
    observe: Observer,
    stack: ExitStack,
) -> int:
    turnstile = process_turnstile()
    workers = [
        Worker(
            stage,
            broker,
            store,
            Origin(worker_name(stage.name), settings.retry),
            usd_per_hour=settings.worker_usd_per_hour,
            limits=settings.limits,
            beat_interval_s=settings.beat_interval_s,
            observe=observe,
            turnstile=turnstile,
        )
        for stage in stages
    ]
    for worker in workers:
        stack.callback(worker.hand_back)
    stack.enter_context(
        health_told(
            settings,
            broker,
            store,
            draining=lambda: any(worker.is_draining for worker in workers),
            figures=lambda: device_figures(turnstile),
            models=lambda: loaded(all(worker.warm for worker in workers)),
        )
    )
    for worker in workers:
        worker.warm_up(settings.warm_engines)
    log.info("worker %s is ready", ", ".join(worker_name(stage.name) for stage in stages))
    return serve(workers, settings.shutdown_grace_s)
