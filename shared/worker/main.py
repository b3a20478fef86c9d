"""Runs one stage's worker as a process: `python -m services.<stage>`."""

import logging
import os
import socket
from contextlib import ExitStack

from shared.broker.open import open_broker
from shared.broker.port import Broker
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.telemetry.logs import log_to_stderr
from shared.worker.dispatch import Origin
from shared.worker.health import HealthServer, live, loaded, ready
from shared.worker.operation import Stage
from shared.worker.process import serve
from shared.worker.settings import WorkerSettings
from shared.worker.worker import Observer, Worker, nobody

log = logging.getLogger(__name__)


def worker_name(stage: str) -> str:
    """Host, stage and process, e.g. `node7.swap.4711`."""
    return f"{socket.gethostname()}.{stage}.{os.getpid()}"


def run(stage: Stage, observe: Observer = nobody) -> int:
    """Work until SIGTERM or SIGINT, or until the worker's limits say that a fresh process should go on.

    The current step gets `shutdown_grace_s` to finish; after that its message is handed back. The exit status is 0;
    1 when the worker broke (a step hangs, the device is poisoned), 2 when it could not be started.
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
        return _run(stage, settings, broker, store, observe, stack)


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
    stage: Stage,
    settings: WorkerSettings,
    broker: Broker,
    store: ArtifactStore,
    observe: Observer,
    stack: ExitStack,
) -> int:
    origin = Origin(worker_name(stage.name), settings.retry)
    worker = Worker(
        stage,
        broker,
        store,
        origin,
        usd_per_hour=settings.worker_usd_per_hour,
        limits=settings.limits,
        beat_interval_s=settings.beat_interval_s,
        observe=observe,
    )
    stack.callback(worker.hand_back)
    if settings.health_port is not None:
        reports = {
            "/live": lambda: live(broker),
            "/ready": lambda: ready(broker, store, models=loaded(worker.warm), draining=worker.is_draining),
        }
        health = HealthServer(settings.health_host, settings.health_port, reports)
        stack.callback(health.close)
        log.info("health at http://%s:%d/live and /ready", settings.health_host, health.port)
    worker.warm_up(settings.warm_engines)
    log.info("worker %s is ready", origin.worker)
    return serve((worker,), settings.shutdown_grace_s)
