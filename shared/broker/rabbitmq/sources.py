"""What a subscription draws from, and how: a consumer for one queue, looking in turn for several with precedence."""

import uuid
from collections import deque
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

# A delivery may still arrive for a consumer that was cancelled a moment ago; so many are remembered.
REMEMBERED_CONSUMERS = 64


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

    def draw(self, channel: Channel, on_message: OnMessage, on_standing: OnStanding) -> Drawing:
        """Prepare an open channel and begin; `on_standing` tells that the server knows."""


@dataclass(frozen=True)
class WorkQueue:
    """A declared queue, one message at a time."""

    queue: str
    auto_ack: bool = False

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
    """Looks into the queues in turn; when all are empty, has a consumer on each wake us, and cancels them all then.

    Standing consumers would each keep a message in a busy worker's hands (prefetch counts per consumer, and quorum
    queues know no limit over several): an urgent message would wait there while other workers are idle. A second
    message can still slip in between the first delivery and the cancellation, about a millisecond. It is kept as the
    next one: giving it back would count as a failed delivery.

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
        self._rank = 0
        self._looking = False
        self._woken = False
        self._stopped = False
        self._armed: list[str] = []
        self._cancelled: deque[str] = deque()
        channel.add_callback(self._on_empty, [Basic.GetEmpty], one_shot=False)

    def go_on(self) -> None:
        self._woken = False
        if not self._looking:
            self._look(0)

    def stop(self) -> None:
        self._stopped = True
        self._disarm()

    def _look(self, rank: int) -> None:
        self._looking = not self._served and rank < len(self._queues)
        if self._looking:
            self._rank = rank
            self._channel.queue_declare(self._queues[rank], passive=True, callback=self._on_counted)
        elif not self._served:
            self._arm(0)

    @property
    def _served(self) -> bool:
        return self._stopped or self._woken

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
        self._on_message(self._rank, channel, method, properties, body)

    def _on_empty(self, _frame: Method) -> None:
        self._look(self._rank + 1)

    def _arm(self, rank: int) -> None:
        consuming = partial(self._on_consuming, rank)
        self._channel.basic_consume(self._queues[rank], partial(self._on_delivered, rank), callback=consuming)

    def _on_consuming(self, rank: int, frame: Method) -> None:
        # RabbitMQ 3.10 fails when a consumer is cancelled before it was told that it consumes.
        self._armed.append(frame.method.consumer_tag)
        if self._served:
            self._disarm()
        elif rank + 1 < len(self._queues):
            self._arm(rank + 1)

    def _on_delivered(
        self, rank: int, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self._woken = True
        self._disarm()
        self._on_message(rank, channel, method, properties, body)

    def _disarm(self) -> None:
        if not self._channel.is_open:
            return
        # pika's own basic_cancel would reject, or leave unsettled for ever, what slips in afterwards.
        for tag in self._armed:
            self._channel._send_method(Basic.Cancel(consumer_tag=tag, nowait=True))  # noqa: SLF001
        self._cancelled += self._armed
        self._armed = []
        while len(self._cancelled) > REMEMBERED_CONSUMERS:
            self._channel._cleanup_consumer_ref(self._cancelled.popleft())  # noqa: SLF001
