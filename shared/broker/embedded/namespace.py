# kombu carries no annotations
# mypy: disable-error-code="no-untyped-call"
"""What the embedded brokers of one name share: exchanges, queues, messages, and the clock of the TTL queues."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.broker.embedded.transport import Raw, open_channel
from shared.broker.port import Outgoing, Queue, Topology
from shared.contracts.errors import Permanent, QueueFull, Transient

RETRY_DEAD_LETTER_S = 1.0


@dataclass(frozen=True)
class Stored:
    """A message as it comes out of a queue."""

    raw: Raw
    queue: str
    body: bytes
    routing_key: str
    message_id: str
    headers: dict[str, str]
    deliveries: int


class Namespace:
    """All methods are safe from any thread. `changed` tells waiters that a queue or a subscription moved."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self._clock_changed = threading.Condition(self._lock)
        self._channel = open_channel()
        self.users = 0
        self._declared: dict[str, Queue] = {}
        self._ended = False
        self._clock: threading.Thread | None = None

    def end(self) -> None:
        """Stop the clock."""
        with self._lock:
            self._ended = True
            self._clock_changed.notify_all()
        if self._clock is not None:
            self._clock.join()

    def declare(self, topology: Topology) -> None:
        """See the port."""
        if any(queue.retry_ms is not None for queue in topology.queues):
            raise Permanent("The embedded broker does not delay retries natively. Set retry.delayed_retry to queues.")
        with self._lock:
            for exchange in topology.exchanges:
                standing = self._channel.state.exchanges.get(exchange.name)
                if standing is not None and standing["type"] != exchange.type:
                    raise _other(f"Exchange {exchange.name}", f"its type is {standing['type']}")
                self._channel.exchange_declare(exchange.name, exchange.type, durable=True)
            for queue in topology.queues:
                self._declare_queue(queue)

    def declare_private(self, name: str, exchange: str, patterns: tuple[str, ...]) -> None:
        """Make a listener's queue."""
        with self._lock:
            self._check_exchange(exchange)
            self._channel.queue_declare(name)
            for pattern in patterns:
                self._channel.queue_bind(name, exchange, pattern)

    def drop_private(self, name: str, exchange: str, patterns: tuple[str, ...]) -> None:
        """Remove a listener's queue."""
        with self._lock:
            self._channel.drop_queue(name, [(exchange, pattern) for pattern in patterns])

    def publish(self, message: Outgoing) -> None:
        """See the port."""
        with self._lock:
            if message.exchange:
                self._check_exchange(message.exchange)
            queues = self._channel.routes(message.exchange, message.routing_key)
            full = self._full(queues)
            if full:
                raise QueueFull(f"Message {message.message_id!r} is not confirmed: {', '.join(full)} is full.")
            if queues:
                self._put(message)
                if any(queue in self._channel.ttl_s for queue in queues):
                    self._clock_changed.notify_all()
            elif message.mandatory:
                raise Transient(
                    f"Message {message.message_id!r} to {message.exchange or 'queue'} {message.routing_key!r} "
                    "is not confirmed: no queue takes it."
                )

    def take(self, queue: str) -> Stored | None:
        """Take the first message out of a queue, or None; `put_back` undoes it."""
        with self._lock:
            raw = self._channel.take(queue)
            if raw is None:
                return None
            message = self._channel.message_to_python(raw)
            return Stored(
                raw,
                queue,
                message.body,
                message.delivery_info["routing_key"],
                message.properties["message_id"],
                message.headers,
                raw.get("deliveries", 0),
            )

    def put_back(self, stored: Stored) -> None:
        """Hand a message back to its queue."""
        with self._lock:
            self._channel.put_back(stored.queue, stored.raw)
            self.changed.notify_all()

    def sweep(self, queue: str, doomed: Callable[[bytes], bool]) -> int:
        """See the port."""
        with self._lock:
            removed = 0
            for _ in range(self.size(queue)):
                stored = self.take(queue)
                if stored is None:
                    break
                try:
                    if doomed(stored.body):
                        removed += 1
                        continue
                except BaseException:
                    self.put_back(stored)
                    raise
                self._put(Outgoing("", queue, stored.body, stored.message_id, stored.headers))
            self._clock_changed.notify_all()
            return removed

    def has(self, queue: str) -> bool:
        """Tell whether a queue was declared."""
        with self._lock:
            return self._channel.stands(queue)

    def size(self, queue: str) -> int:
        """Count a queue's waiting messages; 0 for one that was never declared."""
        with self._lock:
            return self._channel.size(queue)

    def _declare_queue(self, queue: Queue) -> None:
        standing = self._declared.setdefault(queue.name, queue)
        if _properties(standing) != _properties(queue):
            raise _other(f"Queue {queue.name}", _properties(standing))
        if queue.ttl_ms is not None:
            self._channel.ttl_s[queue.name] = queue.ttl_ms / 1000
            self._start_clock()
        self._channel.queue_declare(queue.name)
        for exchange, routing_key in queue.bindings:
            self._check_exchange(exchange)
            self._channel.queue_bind(queue.name, exchange, routing_key)

    def _full(self, queues: list[str]) -> list[str]:
        limits = ((name, self._declared[name].max_length) for name in queues if name in self._declared)
        return [name for name, limit in limits if limit is not None and self._channel.size(name) >= limit]

    def _check_exchange(self, exchange: str) -> None:
        if exchange not in self._channel.state.exchanges:
            raise Transient(f"There is no exchange {exchange!r}.")

    def _put(self, message: Outgoing) -> None:
        payload = self._channel.prepare_message(
            message.body,
            content_type="application/json",
            headers=dict(message.headers),
            properties={"message_id": message.message_id, "delivery_mode": 2},
        )
        self._channel.basic_publish(payload, message.exchange, message.routing_key)
        self.changed.notify_all()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = threading.Thread(target=self._run_clock, name="embedded-broker-clock", daemon=True)
            self._clock.start()

    def _run_clock(self) -> None:
        with self._lock:
            while not self._ended:
                now = time.monotonic()
                for name in [name for name, at in self._expiries() if at <= now]:
                    self._expire_first(name)
                pending = [at for _, at in self._expiries()]
                self._clock_changed.wait(max(0.0, min(pending) - time.monotonic()) if pending else None)

    def _expiries(self) -> list[tuple[str, float]]:
        heads = ((name, self._channel.first_expiry(name)) for name in self._channel.ttl_s)
        return [(name, at) for name, at in heads if at is not None]

    def _expire_first(self, queue: str) -> None:
        stored = self.take(queue)
        target = self._declared[queue].dead_letter
        if stored is None or target is None:
            return
        exchange, routing_key = target
        queues = self._channel.routes(exchange, routing_key)
        if queues and not self._full(queues):
            self._put(Outgoing(exchange, routing_key, stored.body, stored.message_id, stored.headers))
        else:
            self._channel.put_back(queue, {**stored.raw, "expires_at": time.monotonic() + RETRY_DEAD_LETTER_S})


def _properties(queue: Queue) -> str:
    return (
        f"its TTL is {queue.ttl_ms} ms, its dead letters go to {queue.dead_letter}, "
        f"{'any number of' if queue.max_length is None else queue.max_length} messages may wait"
    )


def _other(what: str, how: str) -> Permanent:
    return Permanent(f"{what} stands with other properties: {how}. Close every broker of that name and start again.")


_named: dict[str, Namespace] = {}
_named_lock = threading.Lock()


def enter(name: str | None) -> Namespace:
    """Join the namespace of that name in this process, or a new one; None makes one that nobody else finds."""
    with _named_lock:
        space = _named.setdefault(name, Namespace()) if name else Namespace()
        space.users += 1
        return space


def leave(name: str | None, space: Namespace) -> None:
    """Leave a namespace; it ends with its last user."""
    with _named_lock:
        space.users -= 1
        last = space.users == 0
        if last and name:
            del _named[name]
    if last:
        space.end()
