"""Liveness, readiness and figures over HTTP, for whoever runs the process: GET /live, /ready and /figures."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.broker.port import Broker
from shared.contracts.errors import DoctorGenError
from shared.storage.port import ArtifactStore
from shared.worker.settings import WorkerSettings

log = logging.getLogger(__name__)

LOOP_AGE_LIMIT_S = 15.0
PROBE_KEY = "inbox/is-the-store-there"
FIGURES = "/figures"

Report = Mapping[str, str]
"""What is looked at, and "ok" or what is wrong with it."""

Figures = Mapping[str, float]
"""Counters and gauges by name."""


def live(broker: Broker) -> Report:
    """Whether the process should be let live: its I/O loop ticks, and its consumer stands at the broker.

    A broker that is away is no reason to be restarted: nothing would be better afterwards.
    """
    health = broker.health()
    ticks = health.loop_age_s <= LOOP_AGE_LIMIT_S
    consumes = health.consumers_registered or not health.connected
    return {
        "loop": "ok" if ticks else f"the I/O loop has not ticked for {health.loop_age_s:.0f} s",
        "consumer": "ok" if consumes else "the broker does not have our consumer",
    }


def ready(broker: Broker, store: ArtifactStore, *, draining: bool, **further: str) -> Report:
    """Whether work may be expected: broker and store answer, the process is not ending, and what it needs further."""
    return {
        "broker": "ok" if broker.health().connected else "not connected",
        "storage": answers(lambda: store.get(PROBE_KEY)),
        **further,
        "draining": "the process is ending" if draining else "ok",
    }


def answers(ask: Callable[[], object]) -> str:
    """What a report says of something that was asked."""
    try:
        ask()
    except DoctorGenError as error:
        return str(error)
    return "ok"


def loaded(models: bool) -> str:
    """What a report says of the models."""
    return "ok" if models else "not loaded yet"


class HealthServer:
    """Answers 200 when every line of a report is ok, 503 otherwise, with the report as JSON; to /figures with these."""

    def __init__(
        self,
        host: str,
        port: int,
        reports: Mapping[str, Callable[[], Report]],
        figures: Callable[[], Figures] = dict,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                report = reports.get(self.path)
                if report is not None:
                    found = report()
                    self._answer(200 if all(line == "ok" for line in found.values()) else 503, found)
                elif self.path == FIGURES:
                    self._answer(200, figures())
                else:
                    self._answer(404, {"path": "there are " + ", ".join((*reports, FIGURES))})

            def _answer(self, status: int, found: Report | Figures) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is given
                """Keep probes out of the log."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def health_told(
    settings: WorkerSettings,
    broker: Broker,
    store: ArtifactStore,
    draining: Callable[[], bool],
    figures: Callable[[], Figures] = dict,
    **further: Callable[[], str],
) -> Iterator[HealthServer | None]:
    """Answer where the settings say, until the block ends; nowhere (None) where they name no port.

    Args:
        settings: their `health_host` and `health_port`.
        broker: the process's.
        store: the process's.
        draining: whether the process is ending.
        figures: what /figures tells.
        further: what /ready looks at beyond broker, store and draining.
    """
    if settings.health_port is None:
        yield None
        return
    reports = {
        "/live": lambda: live(broker),
        "/ready": lambda: ready(broker, store, draining=draining(), **{name: look() for name, look in further.items()}),
    }
    server = HealthServer(settings.health_host, settings.health_port, reports, figures)
    log.info("health at http://%s:%d/live, /ready and %s", settings.health_host, server.port, FIGURES)
    try:
        yield server
    finally:
        server.close()
