"""What the pipeline asks of a message broker. Two adapters: RabbitMQ (pika) and embedded (kombu, in memory)."""

from collections.abc import Callable, Mapping
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
    on, goes to `dead_letter` (exchange, routing key); exchange "" is the default one that routes by queue name. A
    queue in which about `max_length` messages wait refuses more until it has become clearly shorter. Where
    `retry_ms` (first, longest) is given the queue itself holds a message back whose delivery failed: for the first
    delay times the number of its deliveries, at most the longest.
    """

    name: str
    bindings: tuple[tuple[str, str], ...] = ()
    ttl_ms: int | None = None
    dead_letter: tuple[str, str] | None = None
    max_length: int | None = None
    retry_ms: tuple[int, int] | None = None


@dataclass(frozen=True)
class Topology:
    """Everything to declare, in order: a queue's dead-letter target stands before the queue."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]

    @property
    def queue_names(self) -> tuple[str, ...]:
        """All queues by name."""
        return tuple(queue.name for queue in self.queues)


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
    @property
    def deliveries(self) -> int:
        """How often this very message was delivered before and came back unacknowledged, for whatever reason.

        A republished message is a new one and starts at 0.
        """

    def ack(self) -> None:
        """The message is worked off; the broker may forget it."""

    def requeue(self) -> None:
        """Hand it back: somebody else, or we later, will get it."""

    def fail(self) -> None:
        """Hand it back as failed: it comes again when its queue's `retry_ms` has passed, else at once."""


class Subscription(Protocol):
    """A consumer with prefetch 1: the next message comes only once this one is settled.

    Of several queues the first named goes first: a later one is looked into only when those before it are empty.
    """

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """Wait for the next message; None when the time is up or the subscription was closed.

        Survives a lost connection: waits (within the timeout) until the broker is back and subscribes again.
        """

    def close(self) -> None:
        """Stop consuming; wakes a waiting `receive`. An unsettled delivery stays ours until settled or lost."""


@dataclass(frozen=True)
class BrokerHealth:
    """How a broker connection is, for probes.

    Attributes:
        loop_age_s: seconds since the broker's own thread last showed that it runs.
        connected: the connections that are in use stand.
        consumers_registered: every open subscription stands at the server, or holds a message from it.
    """

    loop_age_s: float
    connected: bool
    consumers_registered: bool


class Broker(Protocol):
    """Publishes with confirmation and consumes with acknowledgement. Thread-safe."""

    def declare(self, topology: Topology) -> None:
        """Make everything exist; harmless when it does already.

        Raises:
            Transient: the broker cannot be reached.
            Permanent: something of that name stands with other properties, or a queue asks for `retry_ms` and the
                broker cannot do that.
        """

    def send(self, message: Outgoing) -> Future[None]:
        """Publish; the future ends when the broker has taken responsibility.

        It fails with QueueFull, a Transient, when a bounded queue refuses it, and with Transient on a return
        (`mandatory` and no queue), a missing exchange, a connection lost before the confirmation, or the time limit.
        A message that failed may have arrived all the same. Callbacks of the future may run in the broker's own
        thread: they must not wait for the broker.
        """

    def publish(self, message: Outgoing) -> None:
        """Publish and wait for the confirmation. Raises Transient as `send`'s future does."""

    def subscribe(self, *queues: str) -> Subscription:
        """Consume declared queues, or ones that will be declared later; the first named has precedence.

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

    def sweep(self, queue: str, doomed: Callable[[bytes], bool]) -> int:
        """Go once through the messages that wait in a queue and remove those whose body is doomed; returns how many.

        The others are published again to the same queue, confirmed, and only then taken out: a crash can double a
        message but not lose it. They keep their order, id and headers; their routing key becomes the queue's name,
        `deliveries` starts at 0 and a waiting time begins anew. Messages that arrive meanwhile may go unseen.

        Raises:
            Transient: the broker cannot be reached, or a message could not be put back; what was not looked at
                stays as it is.
        """

    def health(self) -> BrokerHealth:
        """Say how the connection is; never waits for the broker."""

    def close(self) -> None:
        """Settle what can be, close the connection, end the threads."""
