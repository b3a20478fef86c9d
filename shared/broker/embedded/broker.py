"""The broker port inside one process: what callers see."""

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from weakref import WeakSet

from shared.broker.embedded.namespace import Namespace, Stored, enter, leave
from shared.broker.port import BrokerHealth, Outgoing, Topology
from shared.contracts.errors import Transient


class EmbeddedDelivery:
    """A message in our hands; see the port."""

    def __init__(self, stored: Stored, settle: Callable[[bool], None]) -> None:
        self.body: bytes = stored.body
        self.routing_key: str = stored.routing_key
        self.message_id: str | None = stored.message_id
        self.headers: Mapping[str, str] = stored.headers
        self.deliveries: int = stored.deliveries
        self.redelivered: bool = stored.deliveries > 0
        self._settle = settle

    def ack(self) -> None:
        self._settle(True)

    def requeue(self) -> None:
        self._settle(False)

    def fail(self) -> None:
        self._settle(False)


class EmbeddedSubscription:
    """A consumer that takes a message only when asked, and the next one only when that is settled."""

    def __init__(
        self, space: Namespace, queues: tuple[str, ...], *, auto_ack: bool, on_close: Callable[[], None]
    ) -> None:
        self._space = space
        self._queues = queues
        self._auto_ack = auto_ack
        self._on_close = on_close
        self._unsettled: Stored | None = None
        self._closed = False

    def receive(self, timeout_s: float | None = None) -> EmbeddedDelivery | None:
        with self._space.changed:
            self._space.changed.wait_for(lambda: self._closed or self._first_filled(), timeout_s)
            queue = self._first_filled()
            stored = None if self._closed or queue is None else self._space.take(queue)
            if stored is None:
                return None
            if not self._auto_ack:
                self._unsettled = stored
            return EmbeddedDelivery(stored, partial(self._settle, stored))

    def close(self) -> None:
        with self._space.changed:
            if self._closed:
                return
            self._closed = True
            self._space.changed.notify_all()
        self._on_close()

    def lose(self) -> None:
        """Give back what is in our hands, as a lost connection would."""
        with self._space.changed:
            if self._unsettled is not None:
                self._settle(self._unsettled, ack=False)

    def _first_filled(self) -> str | None:
        if self._unsettled is not None:
            return None
        return next((queue for queue in self._queues if self._space.size(queue) > 0), None)

    def _settle(self, stored: Stored, ack: bool) -> None:
        with self._space.changed:
            if self._unsettled is not stored:
                return
            self._unsettled = None
            if not ack:
                self._space.put_back(stored)
            self._space.changed.notify_all()


class EmbeddedBroker:
    """A broker without a server. Nothing survives the process; nothing leaves it.

    Brokers of one name share their queues, like connections to one server; a broker without a name is alone. Unlike
    RabbitMQ it sets no limit to how often a message is delivered.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._space = enter(name)
        self._lock = threading.Lock()
        self._subscriptions: WeakSet[EmbeddedSubscription] = WeakSet()
        self._closed = False

    def declare(self, topology: Topology) -> None:
        self._check_open()
        self._space.declare(topology)

    def send(self, message: Outgoing) -> Future[None]:
        future: Future[None] = Future()
        try:
            self.publish(message)
        except Transient as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return future

    def publish(self, message: Outgoing) -> None:
        self._check_open()
        self._space.publish(message)

    def subscribe(self, *queues: str) -> EmbeddedSubscription:
        return self._consume(queues, auto_ack=False, on_close=_nothing)

    def listen(self, exchange: str, patterns: tuple[str, ...]) -> EmbeddedSubscription:
        self._check_open()
        queue = f"doctorgen.listen.{uuid.uuid4().hex}"
        self._space.declare_private(queue, exchange, patterns)
        drop = partial(self._space.drop_private, queue, exchange, patterns)
        return self._consume((queue,), auto_ack=True, on_close=drop)

    def depth(self, queue: str) -> int:
        self._check_queue(queue)
        return self._space.size(queue)

    def sweep(self, queue: str, doomed: Callable[[bytes], bool]) -> int:
        self._check_queue(queue)
        return self._space.sweep(queue, doomed)

    def health(self) -> BrokerHealth:
        return BrokerHealth(loop_age_s=0.0, connected=not self._closed, consumers_registered=not self._closed)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
            subscription.lose()
        leave(self._name, self._space)

    def _consume(
        self, queues: tuple[str, ...], *, auto_ack: bool, on_close: Callable[[], None]
    ) -> EmbeddedSubscription:
        self._check_open()
        subscription = EmbeddedSubscription(self._space, queues, auto_ack=auto_ack, on_close=on_close)
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def _check_queue(self, queue: str) -> None:
        self._check_open()
        if not self._space.has(queue):
            raise Transient(f"There is no queue {queue!r}.")

    def _check_open(self) -> None:
        if self._closed:
            raise Transient("The broker is closed.")


def _nothing() -> None:
    """Leave a work queue as it is: it outlives its subscriptions."""
