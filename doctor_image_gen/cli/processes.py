"""Commands that run until they are told to end: worker and gateway."""

import argparse
import logging
import threading
from contextlib import ExitStack

from doctor_image_gen.cli.parser import ALL_STAGES
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, gateway_loops
from doctor_image_gen.stages import STAGES
from shared.contracts.errors import InvalidInput
from shared.telemetry.logs import log_to_stderr
from shared.worker.health import answers, health_told
from shared.worker.main import run
from shared.worker.process import serve

log = logging.getLogger(__name__)


def worker(arguments: argparse.Namespace) -> int:
    """The workers of these stages in one process; of one stage as `python -m services.<stage>` runs it."""
    wanted = STAGES if ALL_STAGES in arguments.stages else dict.fromkeys(arguments.stages)
    return run(*(STAGES[stage] for stage in wanted))


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
        jobs = connections.jobs
        stack.enter_context(
            health_told(
                settings,
                connections.broker,
                connections.store,
                ending.is_set,
                jobs=lambda: answers(lambda: jobs.recent(1)),
            )
        )
        log.info("the gateway is ready")
        return serve(loops, settings.shutdown_grace_s, ending)
