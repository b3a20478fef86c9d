# kombu carries no annotations
# mypy: disable-error-code="no-untyped-call"
"""kombu's memory transport, each instance with queues of its own, AMQP's topic rule and messages that expire."""

import re
import time
from typing import Any

from kombu.connection import Connection
from kombu.transport import memory
from kombu.transport.virtual import BrokerState
from kombu.transport.virtual.exchange import TopicExchange

Raw = dict[str, Any]


class AmqpTopicExchange(TopicExchange):
    """Topic routing where `#` stands for no word too, as AMQP has it; kombu's wants at least a dot."""

    def key_to_pattern(self, rkey: str) -> str:
        words = {"*": r"\.[^.]+", "#": r"(?:\.[^.]+)*"}
        return "^" + "".join(words.get(word, r"\." + re.escape(word)) for word in rkey.split(".")) + "$"

    def _match(self, pattern: str, string: str) -> object:
        return super()._match(pattern, f".{string}")


class IsolatedChannel(memory.Channel):
    """The one channel of a namespace. Not thread-safe: its namespace guards it."""

    def __init__(self, connection: "IsolatedTransport", **options: Any) -> None:
        self.exchange_types = {**memory.Channel.exchange_types, "topic": AmqpTopicExchange}
        super().__init__(connection, **options)
        self.queues: dict[str, Any] = {}  # kombu's is shared by the whole process
        self.ttl_s: dict[str, float] = {}

    def stands(self, queue: str) -> bool:
        """Tell whether a queue was declared."""
        return bool(self._has_queue(queue))

    def routes(self, exchange: str, routing_key: str) -> list[str]:
        """List the queues that a message would reach."""
        return [queue for queue in self._lookup(exchange, routing_key) if self.stands(queue)]

    def take(self, queue: str) -> Raw | None:
        """Take the first message out, or None."""
        if not self.stands(queue) or self._size(queue) == 0:
            return None
        raw: Raw = self._get(queue)
        return raw

    def put_back(self, queue: str, raw: Raw) -> None:
        """Put a message back where it came from: first in line, counted as delivered before."""
        if self.stands(queue):
            self._queue_for(queue).queue.appendleft({**raw, "deliveries": raw.get("deliveries", 0) + 1})

    def size(self, queue: str) -> int:
        """Count the waiting messages."""
        return int(self._size(queue)) if self.stands(queue) else 0

    def drop_queue(self, queue: str, bindings: list[tuple[str, str]]) -> None:
        """Remove a queue, its bindings and its messages."""
        for exchange, routing_key in bindings:
            self.queue_unbind(queue, exchange, routing_key)
        self._delete(queue)

    def first_expiry(self, queue: str) -> float | None:
        """Say when (monotonic seconds) the first message of a TTL queue expires; None when it is empty."""
        waiting = self._queue_for(queue).queue
        return float(waiting[0]["expires_at"]) if waiting else None

    def _put(self, queue: str, message: Raw, **_options: Any) -> None:
        ttl_s = self.ttl_s.get(queue)
        stamp = {} if ttl_s is None else {"expires_at": time.monotonic() + ttl_s}
        super()._put(queue, {**message, **stamp})

    def _put_fanout(self, exchange: str, message: Raw, routing_key: str | None = None, **_options: Any) -> None:
        for queue in self._lookup(exchange, routing_key):
            self._put(queue, message)


class IsolatedTransport(memory.Transport):
    """A transport whose exchanges and bindings nobody else sees."""

    Channel = IsolatedChannel

    def __init__(self, client: Connection, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = BrokerState()


def open_channel() -> IsolatedChannel:
    """Open the channel of a new, empty namespace."""
    channel: IsolatedChannel = Connection(transport=IsolatedTransport).channel()
    return channel
