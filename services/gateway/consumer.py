"""Works off queues: a message is acknowledged once its work is done, however long that has to wait."""

import logging
import threading
from collections.abc import Callable
from time import monotonic

from shared.broker.holding import HOLDS_HEADER, is_held
from shared.broker.port import Broker, Delivery, Outgoing
from shared.contracts.errors import DoctorGenError
from shared.worker.events import event_id

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 15.0
HOLD_S = 600.0
"""How long a message is held; well below RabbitMQ's consumer timeout of 30 minutes, which would count as a crash."""


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row (1 or more): doubling from 0.1 s up to 15 s."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30))


def publish_all(broker: Broker, messages: tuple[Outgoing, ...]) -> None:
    """Publish side by side and wait for every confirmation. Raises Transient where one is missing."""
    confirmations = [broker.send(message) for message in messages]
    for confirmation in confirmations:
        confirmation.result()


class Consumer:
    """Consumes in the thread that calls `run`, until `stop`.

    `work` does what a message asks for and may be called for the same message again. What it raises of ours means that
    something it needs is away: the message stays in hand and is tried again, more and more slowly. One that has been
    in hand for ten minutes goes back to the end of its queue as a new message, so that no delivery is counted for it.
    """

    def __init__(self, broker: Broker, queues: tuple[str, ...], work: Callable[[Delivery], None]) -> None:
        self._broker = broker
        self._queues = queues
        self._work = work
        self._stopping = threading.Event()
        self._subscription = broker.subscribe(*queues)

    def run(self) -> None:
        """Consume until `stop`."""
        while not self._stopping.is_set():
            delivery = self._subscription.receive()
            if delivery is not None:
                self._handle(delivery)

    def stop(self) -> None:
        """Take no further message; `run` returns after the current one, or at once where that has to wait."""
        self._stopping.set()
        self._subscription.close()

    def _handle(self, delivery: Delivery) -> None:
        if is_held(delivery):
            delivery.fail()
            return
        failures, since = 0, monotonic()
        while True:
            try:
                self._work(delivery)
            except DoctorGenError as error:
                failures += 1
                log.warning("a message of %s has to wait (%d): %s", self._queues[0], failures, error)
            else:
                delivery.ack()
                return
            if self._stopping.wait(pause_s(failures)):
                delivery.requeue()
                return
            if monotonic() - since > HOLD_S and self._put_back(delivery):
                return

    def _put_back(self, delivery: Delivery) -> bool:
        home = delivery.routing_key if delivery.routing_key in self._queues else self._queues[0]
        name = delivery.message_id or event_id(delivery.body.hex())
        try:
            headers = {key: value for key, value in delivery.headers.items() if key != HOLDS_HEADER}
            self._broker.publish(Outgoing("", home, delivery.body, name, headers))
        except DoctorGenError:
            return False
        delivery.ack()
        return True
