"""What a subscription draws from, and how: a consumer for one queue, looking in turn for several with precedence."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pika import BasicProperties
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

OnMessage = Callable[[int, Channel, "Basic.Deliver | Basic.GetOk", BasicProperties, bytes], None]
OnStanding = Callable[[], None]


class Drawing(Protocol):
    """One channel being drawn from until it closes. Everything runs in the I/O thread."""

    @property
    def standing(self) -> bool:
        """Whether the server knows that we want messages."""

    def go_on(self) -> None:
        """Nothing is in our hands: get the next message."""

    def stop(self) -> None:
        """Draw no more."""


class Source(Protocol):
    """What is consumed."""

    @property
    def auto_ack(self) -> bool:
        """Whether deliveries need no settling."""

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues' names, where they outlive the subscription; a delivery's rank is a place in here."""

    def draw(self, channel: Channel, on_message: OnMessage, on_standing: OnStanding) -> Drawing:
        """Prepare an open channel and begin; `on_standing` tells that the server knows."""


@dataclass(frozen=True)
class WorkQueue:
    """A declared queue, one message at a time."""

    queue: str
    auto_ack: bool = False

    @property
    def queues(self) -> tuple[str, ...]:
        return (self.queue,)

    def draw(self, channel: Channel, on_message: OnMessage, on_standing: OnStanding) -> Drawing:
        channel.basic_qos(prefetch_count=1)
        return Consumer(channel, self.queue, on_message, on_standing, auto_ack=False)


@dataclass(frozen=True)
class WorkQueues:
    """Several declared queues, one message at a time from the first that has one."""

    queues: tuple[str, ...]
    auto_ack: bool = False

    def draw(self, channel: Channel, on_message: OnMessage, on_standing: OnStanding) -> Drawing:
        channel.basic_qos(prefetch_count=1)
        return Precedence(channel, self.queues, on_message, on_standing)


@dataclass(frozen=True)
class PrivateQueue:
    """A queue of our own on an exchange, gone with the connection."""

    exchange: str
    patterns: tuple[str, ...]
    auto_ack: bool = True
    queues: tuple[str, ...] = ()

    def draw(self, channel: Channel, on_message: OnMessage, on_standing: OnStanding) -> Drawing:
        # A new name each time: after a lost connection the server may still hold the old queue for the old one.
        name = f"doctorgen.listen.{uuid.uuid4().hex}"
        channel.queue_declare(name, exclusive=True, auto_delete=True)
        for pattern in self.patterns:
            channel.queue_bind(name, self.exchange, pattern)
        return Consumer(channel, name, on_message, on_standing, auto_ack=True)


class Consumer:
    """The server pushes; with prefetch 1 it waits for each acknowledgement by itself."""

    def __init__(
        self, channel: Channel, queue: str, on_message: OnMessage, on_standing: OnStanding, *, auto_ack: bool
    ) -> None:
        self.standing = False
        self._channel = channel
        self._on_standing = on_standing
        self._tag: str = channel.basic_consume(
            queue, partial(on_message, 0), auto_ack=auto_ack, callback=self._on_consuming
        )

    def go_on(self) -> None:
        """Leave it to the server."""

    def stop(self) -> None:
        if self._channel.is_open:
            self._channel.basic_cancel(self._tag)

    def _on_consuming(self, _frame: Method) -> None:
        self.standing = True
        self._on_standing()


class Precedence:
    """Looks into the queues in turn; when all are empty, has a consumer on each of them wake us.

    Prefetch counts per consumer, and quorum queues know no limit over several: while we work on a message of one
    queue, a consumer of another may bring a second, which would wait here though other workers are idle. The
    subscription hands such a surplus back. A consumer is cancelled as soon as it has delivered, when its prefetch of
    one is used up and nothing of it can be under way (what is would come back counted as a failed delivery), and is
    made anew only when all queues are empty again: a busy worker gives back at most one message for each other queue.

    A look is a passive declaration, which the queue's leader answers from memory; basic.get would write to its log
    even when there is nothing.
    """

    def __init__(
        self, channel: Channel, queues: tuple[str, ...], on_message: OnMessage, on_standing: OnStanding
    ) -> None:
        self.standing = False
        self._channel = channel
        self._queues = queues
        self._on_message = on_message
        self._on_standing = on_standing
        self._consumers: dict[int, str] = {}
        self._rank = 0
        self._looking = False
        self._served = False
        channel.add_callback(self._on_empty, [Basic.GetEmpty], one_shot=False)

    def go_on(self) -> None:
        self._served = False
        if not self._looking:
            self._look(0)

    def stop(self) -> None:
        self._served = True
        while self._consumers and self._channel.is_open:
            self._channel.basic_cancel(self._consumers.popitem()[1], callback=_heard)

    def _look(self, rank: int) -> None:
        self._looking = not self._served and rank < len(self._queues)
        if self._looking:
            self._rank = rank
            self._channel.queue_declare(self._queues[rank], passive=True, callback=self._on_counted)
        elif not self._served:
            self._consume()

    def _on_counted(self, frame: Method) -> None:
        if not self.standing:
            self.standing = True
            self._on_standing()
        if frame.method.message_count and not self._served:
            self._channel.basic_get(self._queues[self._rank], self._on_got)
        else:
            self._look(self._rank + 1)

    def _on_got(self, channel: Channel, method: Basic.GetOk, properties: BasicProperties, body: bytes) -> None:
        self._looking = False
        self._served = True
        self._on_message(self._rank, channel, method, properties, body)

    def _on_empty(self, _frame: Method) -> None:
        self._look(self._rank + 1)

    def _consume(self) -> None:
        for rank, queue in enumerate(self._queues):
            if rank not in self._consumers:
                self._consumers[rank] = self._channel.basic_consume(queue, partial(self._on_delivered, rank))

    def _on_delivered(
        self, rank: int, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self._served = True
        # pika's own basic_cancel waits for the answers to earlier requests; an acknowledgement would overtake it.
        channel._send_method(Basic.Cancel(consumer_tag=self._consumers.pop(rank), nowait=True))  # noqa: SLF001
        channel._cleanup_consumer_ref(method.consumer_tag)  # noqa: SLF001
        self._on_message(rank, channel, method, properties, body)


def _heard(_frame: Method) -> None:
    """Nothing waits for this answer; without a callback pika would remember the consumer for ever."""
