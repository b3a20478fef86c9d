"""The broker port on RabbitMQ: what callers see."""

import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from weakref import WeakSet

from pika import URLParameters
from pika.connection import Parameters

from shared.broker.port import BrokerHealth, Outgoing, Topology
from shared.broker.rabbitmq.control import Control
from shared.broker.rabbitmq.declare import ask_version, check_delayed_retry, count, declare
from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.publisher import Publisher
from shared.broker.rabbitmq.sources import PrivateQueue, Source, WorkQueue, WorkQueues
from shared.broker.rabbitmq.subscription import RabbitSubscription
from shared.broker.rabbitmq.sweep import Sweeper
from shared.contracts.errors import InvalidInput, Transient

ABORT_LIMIT_S = 5.0
BETWEEN_URLS = re.compile(r",\s*(?=amqps?://)")


class RabbitBroker:
    """Publishes and consumes over two connections, opened on first use and kept alive by one I/O thread.

    Two, because RabbitMQ stops reading from publishers when it runs short of memory or disk, and consumers must then
    be able to acknowledge. Lost connections come back by themselves until `close`.
    """

    def __init__(
        self,
        url: str,
        *,
        publish_timeout_s: float = 30.0,
        call_timeout_s: float = 30.0,
        connect_timeout_s: float = 10.0,
        heartbeat_s: int = 30,
        close_timeout_s: float = 5.0,
        delivery_limit: int = 20,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: amqp:// or amqps://, as pika reads it; a heartbeat given in it is overridden. Several, separated by
                commas, are the nodes of one cluster, tried in turn.
            publish_timeout_s: how long a publish may wait for a connection and its confirmation.
            call_timeout_s: how long `declare`, `depth` and `listen` may take.
            connect_timeout_s: how long one attempt to connect may take; there is always another.
            heartbeat_s: a silent connection is given up after this and five seconds more.
            close_timeout_s: how long `close` waits for confirmations, and again for the server's goodbye.
            delivery_limit: how often RabbitMQ delivers a message before it goes to the dead letters.

        Raises:
            InvalidInput: the URL cannot be read.
        """
        _quieten_pika()
        servers = [_parameters(each, connect_timeout_s, heartbeat_s) for each in BETWEEN_URLS.split(url)]
        self._close_timeout_s = close_timeout_s
        self._call_timeout_s = call_timeout_s
        self._delivery_limit = delivery_limit
        self._io = IoThread(self._on_crash)
        self._publishing = Link(self._io, servers, "publishing")
        self._consuming = Link(self._io, servers, "consuming")
        self._publisher = Publisher(self._io, self._publishing, publish_timeout_s)
        self._control = Control(self._io, self._consuming, call_timeout_s)
        self._lock = threading.Lock()
        self._subscriptions: WeakSet[RabbitSubscription] = WeakSet()
        self._closed = False

    def declare(self, topology: Topology) -> None:
        self._check_open()
        if any(queue.retry_ms is not None for queue in topology.queues):
            check_delayed_retry(self._control.call(ask_version, "tell its version"))
        self._control.call(partial(declare, topology, self._delivery_limit), "declare the topology")

    def send(self, message: Outgoing) -> Future[None]:
        return self._publisher.send(message)

    def publish(self, message: Outgoing) -> None:
        self.send(message).result()

    def subscribe(self, *queues: str) -> RabbitSubscription:
        return self._consume(WorkQueue(*queues) if len(queues) == 1 else WorkQueues(queues))

    def listen(self, exchange: str, patterns: tuple[str, ...]) -> RabbitSubscription:
        subscription = self._consume(PrivateQueue(exchange, patterns))
        if not subscription.wait_ready(self._call_timeout_s):
            subscription.close()
            reason = subscription.trouble or self._consuming.trouble
            raise Transient(f"Could not listen to {exchange} in {self._call_timeout_s:g} s: {reason}.")
        return subscription

    def depth(self, queue: str) -> int:
        self._check_open()
        waiting: int = self._control.call(partial(count, queue), f"count the messages of {queue}")
        return waiting

    def sweep(self, queue: str, doomed: Callable[[bytes], bool]) -> int:
        waiting = self.depth(queue)
        sweeper = Sweeper(self._io, self._consuming, queue, self._call_timeout_s)
        return sweeper.run(waiting, doomed, self.publish)

    def health(self) -> BrokerHealth:
        links = [link for link in (self._publishing, self._consuming) if link.in_use]
        with self._lock:
            subscriptions = list(self._subscriptions)
        return BrokerHealth(
            loop_age_s=self._io.age_s,
            connected=bool(links) and all(link.connection is not None for link in links),
            consumers_registered=all(subscription.registered for subscription in subscriptions),
        )

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
        self._publisher.settle(self._close_timeout_s)
        links = (self._consuming, self._publishing)
        for link in links:
            self._io.submit(link.close)
        until = time.monotonic() + self._close_timeout_s
        for link in links:
            if not link.wait_closed(max(0.0, until - time.monotonic())):
                self._io.submit(partial(link.abort, "the server did not answer our goodbye"))
                link.wait_closed(ABORT_LIMIT_S)
        self._io.stop()
        self._publisher.fail_rest()
        self._control.fail_rest()

    def _consume(self, source: Source) -> RabbitSubscription:
        with self._lock:
            self._check_open()
            subscription = RabbitSubscription(self._io, self._consuming, source, self._publisher.send)
            self._subscriptions.add(subscription)
            return subscription

    def _check_open(self) -> None:
        if self._closed:
            raise Transient("The broker is closed.")

    def _on_crash(self, reason: str) -> None:
        self._publishing.abort(reason)
        self._consuming.abort(reason)


def _parameters(url: str, connect_timeout_s: float, heartbeat_s: int) -> Parameters:
    try:
        parameters = URLParameters(url)
    except (TypeError, ValueError):
        # The library's own message may quote the URL, and so the password.
        raise InvalidInput(
            "broker_url", "it is not a readable AMQP URL", "Give amqp://user:password@host:5672/vhost."
        ) from None
    parameters.heartbeat = heartbeat_s
    parameters.socket_timeout = connect_timeout_s
    parameters.stack_timeout = connect_timeout_s
    return parameters


def _quieten_pika() -> None:
    # pika logs each failed attempt several times over, with tracebacks; our own single line says as much.
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
