"""A worker's signs of life, told every few seconds from a thread of its own."""

import threading
from collections.abc import Callable

from shared.broker.port import Broker, Outgoing
from shared.broker.topology import EVENTS
from shared.contracts.beat import Beat
from shared.worker.events import event_id


class Pulse:
    """Publishes what `beat` says at once, then every `interval_s`, and once more when closed."""

    def __init__(self, broker: Broker, beat: Callable[[], Beat], interval_s: float) -> None:
        self._broker = broker
        self._beat = beat
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say it a last time and end."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            beat = self._beat()
            message_id = event_id(beat.worker, beat.at)
            self._broker.send(Outgoing(EVENTS, beat.routing_key, beat.to_json(), message_id))
            if self._closed.is_set():
                return
            self._closed.wait(self._interval_s)
