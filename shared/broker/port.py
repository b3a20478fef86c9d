"""What the pipeline asks of a message broker. Two adapters: RabbitMQ (pika) and embedded (kombu, in memory)."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: Literal["direct", "topic", "fanout"]


@dataclass(frozen=True)
class Queue:
    """A durable (quorum, where the broker has them) queue and what happens to messages that leave it unread.

    `bindings` are (exchange, routing key) pairs. A message older than `ttl_ms`, or one that the broker gives up
    on, goes to `dead_letter` (exchange, routing key); exchange "" is the default one that routes by queue name.
    """

    name: str
    bindings: tuple[tuple[str, str], ...] = ()
    ttl_ms: int | None = None
    dead_letter: tuple[str, str] | None = None


@dataclass(frozen=True)
class Topology:
    """Everything to declare, in order: a queue's dead-letter target stands before the queue."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]


@dataclass(frozen=True)
class Outgoing:
    """A message to publish. Exchange "" routes by queue name."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    mandatory: bool = True


class Delivery(Protocol):
    """A message in our hands until it is acknowledged or handed back. Each is settled at most once.

    Settling after the connection was lost does nothing: the broker delivers the message again by itself.
    """

    @property
    def body(self) -> bytes: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def redelivered(self) -> bool: ...

    def ack(self) -> None:
        """The message is worked off; the broker may forget it."""

    def requeue(self) -> None:
        """Hand it back: somebody else, or we later, will get it."""


class Subscription(Protocol):
    """A consumer with prefetch 1: the next message comes only once this one is settled."""

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """Wait for the next message; None when the time is up or the subscription was closed.

        Survives a lost connection: waits (within the timeout) until the broker is back and subscribes again.
        """

    def close(self) -> None:
        """Stop consuming; wakes a waiting `receive`. An unsettled delivery stays ours until settled or lost."""


class Broker(Protocol):
    """Publishes with confirmation and consumes with acknowledgement. Thread-safe."""

    def declare(self, topology: Topology) -> None:
        """Make everything exist; harmless when it does already.

        Raises:
            Transient: the broker cannot be reached.
            Permanent: something of that name stands with other properties.
        """

    def send(self, message: Outgoing) -> Future[None]:
        """Publish; the future ends when the broker has taken responsibility.

        It fails with Transient on a nack, a return (`mandatory` and no queue), a missing exchange, a connection lost
        before the confirmation, or the time limit. A message that failed may have arrived all the same. Callbacks of
        the future may run in the broker's own thread: they must not wait for the broker.
        """

    def publish(self, message: Outgoing) -> None:
        """Publish and wait for the confirmation. Raises Transient as `send`'s future does."""

    def subscribe(self, queue: str) -> Subscription:
        """Consume a declared queue, or one that will be declared later.

        Goes on until it is closed: a subscription that is only forgotten still holds a message.
        """

    def listen(self, exchange: str, patterns: tuple[str, ...]) -> Subscription:
        """Consume a private, temporary queue bound with these routing patterns; it is gone when closed.

        Messages published before `listen` returned are not seen. Not for work: it may lose messages on reconnection.
        Deliveries need no settling (ack is a no-op).

        Raises:
            Transient: the broker cannot be reached, or there is no such exchange.
        """

    def depth(self, queue: str) -> int:
        """How many messages wait, those in consumers' hands not counted. Raises Transient."""

    def close(self) -> None:
        """Settle what can be, close the connection, end the threads."""
