"""Runs one stage's worker as a process: `python -m services.<stage>`."""

import logging
import os
import socket
from random import Random

from shared.broker.open import open_broker
from shared.broker.topology import topology
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.storage.open import open_store
from shared.telemetry.logs import log_to_stderr
from shared.worker.dispatch import Origin
from shared.worker.operation import Stage
from shared.worker.process import serve
from shared.worker.settings import WorkerSettings
from shared.worker.worker import Observer, Worker

log = logging.getLogger(__name__)


def worker_name(stage: str) -> str:
    """Host, stage and process, e.g. `node7.swap.4711`."""
    return f"{socket.gethostname()}.{stage}.{os.getpid()}"


def run(stage: Stage, observe: Observer | None = None) -> int:
    """Work until SIGTERM or SIGINT; the exit status.

    The current step gets `shutdown_grace_s` to finish; after that its message is handed back.
    """
    log_to_stderr()
    try:
        settings = WorkerSettings.load()
        url = settings.broker_url.get_secret_value()
        if url.startswith("memory:"):
            raise InvalidInput(
                "broker_url",
                "memory:// lives within one process, and a worker process is alone in its own",
                "Set DOCTORGEN_BROKER_URL=amqp://…",
            )
        broker = open_broker(url)
        store = open_store(settings.storage)
        broker.declare(topology(retry_ladder_ms=settings.retry.ladder_ms))
    except DoctorGenError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says what to mend; a traceback would bury it
        return 2

    origin = Origin(worker_name(stage.name), settings.retry)
    options = {} if observe is None else {"observe": observe}
    worker = Worker(stage, broker, store, origin, usd_per_hour=settings.worker_usd_per_hour, rng=Random(), **options)
    log.info("worker %s is ready", origin.worker)
    status = serve((worker,), settings.shutdown_grace_s)
    worker.hand_back()
    broker.close()
    return status
