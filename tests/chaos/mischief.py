"""Tells messages again: copies of steps and events that it sees, late, out of order, some of them twice.

python -m tests.chaos.mischief SEED SHARE, with the broker in DOCTORGEN_BROKER_URL. A copy carries a header, by which it
is known here and not copied again; nobody else looks at it.
"""

import heapq
import os
import sys
import threading
import time
from random import Random

from shared.broker.open import open_broker
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import EVENTS, STEPS, topology
from shared.contracts.errors import Transient
from shared.worker.process import serve
from tests.chaos.inside import ledger

COPIED = "x-copied-by-mischief"
LATEST_S = 8.0
TWICE = 0.3
LOOK_S = 0.05


class Mischief:
    """Copies a share of what passes an exchange. `run` works until `stop`; copies still held then are dropped."""

    def __init__(self, broker: Broker, exchange: str, keys: tuple[str, ...], share: float, rng: Random) -> None:
        self._broker = broker
        self._exchange = exchange
        self._share = share
        self._rng = rng
        self._account = ledger()
        self._stopping = threading.Event()
        self._held: list[tuple[float, int, Outgoing]] = []
        self._subscription = broker.listen(exchange, keys)

    def run(self) -> None:
        """Listen, hold, tell again."""
        while not self._stopping.is_set():
            delivery = self._subscription.receive(LOOK_S if self._held else None)
            if delivery is not None and COPIED not in delivery.headers and self._rng.random() < self._share:
                self._hold(delivery)
            while self._held and self._held[0][0] <= time.monotonic():
                self._tell(heapq.heappop(self._held)[2])

    def stop(self) -> None:
        """Listen no longer."""
        self._stopping.set()
        self._subscription.close()

    def _hold(self, delivery: Delivery) -> None:
        again = Outgoing(
            self._exchange, delivery.routing_key, delivery.body, delivery.message_id or "", {COPIED: "yes"}
        )
        for _ in range(2 if self._rng.random() < TWICE else 1):
            due = time.monotonic() + self._rng.uniform(0, LATEST_S)
            heapq.heappush(self._held, (due, self._rng.getrandbits(32), again))

    def _tell(self, again: Outgoing) -> None:
        try:
            self._broker.publish(again)
        except Transient:
            return  # mischief promises nothing
        self._account.note("again", f"{self._exchange} {again.routing_key}")


def main(seed: str, share: str) -> int:
    """Do mischief until SIGTERM."""
    broker = open_broker(os.environ["DOCTORGEN_BROKER_URL"])
    step_keys = {key for queue in topology().queues for exchange, key in queue.bindings if exchange == STEPS}
    steps = Mischief(broker, STEPS, tuple(sorted(step_keys)), float(share), Random(f"{seed}/steps"))
    events = Mischief(broker, EVENTS, ("job.#",), float(share), Random(f"{seed}/events"))
    status = serve((steps, events), 5.0)
    broker.close()
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
