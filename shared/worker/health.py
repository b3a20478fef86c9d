"""Liveness and readiness over HTTP, for whoever runs the process: GET /live and GET /ready."""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.broker.port import Broker
from shared.contracts.errors import DoctorGenError
from shared.storage.port import ArtifactStore

LOOP_AGE_LIMIT_S = 15.0
PROBE_KEY = "inbox/is-the-store-there"

Report = Mapping[str, str]
"""What is looked at, and "ok" or what is wrong with it."""


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
    """Answers 200 when every line of a report is ok, 503 otherwise, with the report as JSON."""

    def __init__(self, host: str, port: int, reports: Mapping[str, Callable[[], Report]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                report = reports.get(self.path)
                found = {"path": "there are " + ", ".join(reports)} if report is None else report()
                well = all(line == "ok" for line in found.values())
                self.send_response(404 if report is None else 200 if well else 503)
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
