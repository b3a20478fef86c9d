"""The embedded pipeline with the chaos stages: gateway and one worker a stage, in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, gateway_loops
from shared.worker.dispatch import Origin
from shared.worker.process import Loop
from shared.worker.worker import Worker
from tests.chaos.stages import RECIPES, STAGES

STOP_PATIENCE_S = 30.0


@contextmanager
def embedded(settings: Settings) -> Iterator[Connections]:
    """Run it; everything has ended afterwards."""
    connections = Connections.open(settings)
    broker, store = connections.broker, connections.store
    workers = [
        Worker(stage, broker, store, Origin(f"embedded.{name}", settings.retry), usd_per_hour=1.0)
        for name, stage in STAGES.items()
    ]
    loops: list[Loop] = [*gateway_loops(settings, connections, STAGES, RECIPES.__getitem__), *workers]
    threads = [threading.Thread(target=loop.run, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield connections
    finally:
        for loop in loops:
            loop.stop()
        for thread in threads:
            thread.join(STOP_PATIENCE_S)
        connections.close()
