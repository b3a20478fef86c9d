"""Commands that run until they are told to end: worker and gateway."""

import argparse
import logging

from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, gateway_loops
from doctor_image_gen.stages import STAGES
from shared.contracts.errors import InvalidInput
from shared.telemetry.logs import log_to_stderr
from shared.worker.main import run
from shared.worker.process import serve

log = logging.getLogger(__name__)


def worker(arguments: argparse.Namespace) -> int:
    """One stage's worker, as `python -m services.<stage>` runs it."""
    return run(STAGES[arguments.stage])


def gateway(_: argparse.Namespace) -> int:
    """Intake and journal."""
    log_to_stderr()
    settings = Settings.load()
    if settings.embedded:
        raise InvalidInput("broker_url", "memory:// lives within one process", "Set DOCTORGEN_BROKER_URL=amqp://…")
    connections = Connections.open(settings)
    loops = gateway_loops(settings, connections)
    log.info("the gateway is ready")
    status = serve(loops, settings.shutdown_grace_s)
    connections.close()
    return status
