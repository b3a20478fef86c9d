"""Commands that run until they are told to end: worker and gateway."""

import argparse
import logging
import threading
from contextlib import ExitStack

from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, gateway_loops
from doctor_image_gen.stages import STAGES
from shared.contracts.errors import InvalidInput
from shared.telemetry.logs import log_to_stderr
from shared.worker.health import HealthServer, answers, live, ready
from shared.worker.main import run
from shared.worker.process import serve

log = logging.getLogger(__name__)


def worker(arguments: argparse.Namespace) -> int:
    """One stage's worker, as `python -m services.<stage>` runs it."""
    return run(STAGES[arguments.stage])


def gateway(_: argparse.Namespace) -> int:
    """Intake, releaser, journal, undertaker, rescue."""
    log_to_stderr()
    settings = Settings.load()
    if settings.embedded:
        raise InvalidInput("broker_url", "memory:// lives within one process", "Set DOCTORGEN_BROKER_URL=amqp://…")
    with ExitStack() as stack:
        connections = Connections.open(settings)
        stack.callback(connections.close)
        loops = gateway_loops(settings, connections)
        ending = threading.Event()
        if settings.health_port is not None:
            stack.callback(_tell_health(settings, settings.health_port, connections, ending).close)
        log.info("the gateway is ready")
        return serve(loops, settings.shutdown_grace_s, ending)


def _tell_health(settings: Settings, port: int, connections: Connections, ending: threading.Event) -> HealthServer:
    broker, store, jobs = connections.broker, connections.store, connections.jobs
    reports = {
        "/live": lambda: live(broker),
        "/ready": lambda: ready(broker, store, jobs=answers(lambda: jobs.recent(1)), draining=ending.is_set()),
    }
    health = HealthServer(settings.health_host, port, reports)
    log.info("health at http://%s:%d/live and /ready", settings.health_host, health.port)
    return health
