"""Consumers that outlive their connection, and the deliveries they hand out."""

import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pika import BasicProperties, SelectConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.trouble import describe

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LISTENER_BUFFER = 10_000


class Source(Protocol):
    """What is consumed."""

    @property
    def auto_ack(self) -> bool:
        """Whether deliveries need no settling."""

    def prepare(self, channel: Channel) -> str:
        """Set the channel up; returns the queue to consume."""


@dataclass(frozen=True)
class WorkQueue:
    """A declared queue, one message at a time."""

    queue: str
    auto_ack: bool = False

    def prepare(self, channel: Channel) -> str:
        channel.basic_qos(prefetch_count=1)
        return self.queue


@dataclass(frozen=True)
class PrivateQueue:
    """A queue of our own on an exchange, gone with the connection."""

    exchange: str
    patterns: tuple[str, ...]
    auto_ack: bool = True

    def prepare(self, channel: Channel) -> str:
        # A new name each time: after a lost connection the server may still hold the old queue for the old one.
        name = f"doctorgen.listen.{uuid.uuid4().hex}"
        channel.queue_declare(name, exclusive=True, auto_delete=True)
        for pattern in self.patterns:
            channel.queue_bind(name, self.exchange, pattern)
        return name


class RabbitDelivery:
    """A message in our hands; see the port. Header values that are no plain strings or numbers are left out."""

    def __init__(
        self, method: Basic.Deliver, properties: BasicProperties, body: bytes, settle: Callable[[bool], None]
    ) -> None:
        self.body: bytes = body
        self.routing_key: str = method.routing_key
        self.message_id: str | None = properties.message_id
        self.redelivered: bool = method.redelivered
        self.headers: Mapping[str, str] = {
            name: str(value) for name, value in (properties.headers or {}).items() if isinstance(value, (str, int))
        }
        self._settle = settle
        self._settled = False
        self._lock = threading.Lock()

    def ack(self) -> None:
        self._once(ack=True)

    def requeue(self) -> None:
        self._once(ack=False)

    def _once(self, *, ack: bool) -> None:
        with self._lock:
            first, self._settled = not self._settled, True
        if first:
            self._settle(ack)


class RabbitSubscription:
    """A consumer on a channel of its own; on a lost connection or a server-side cancel it subscribes again.

    `receive`, `close` and `wait_ready` are for callers' threads, the rest runs in the I/O thread.
    """

    def __init__(self, io: IoThread, link: Link, source: Source) -> None:
        self.trouble = ""
        self._io = io
        self._link = link
        self._source = source
        self._changed = threading.Condition()
        self._arrived: deque[RabbitDelivery] = deque(maxlen=LISTENER_BUFFER if source.auto_ack else None)
        self._closed = False
        self._ready = False
        self._channel: Channel | None = None
        self._consumer_tag: str | None = None
        self._unsettled = 0
        self._failures = 0
        io.submit(self._begin)

    def receive(self, timeout_s: float | None = None) -> RabbitDelivery | None:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._closed, timeout_s)
            return None if self._closed or not self._arrived else self._arrived.popleft()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the server has this consumer for the first time; False when it is closed or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed, timeout_s)
            return self._ready

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            unread = list(self._arrived)
            self._arrived.clear()
            self._changed.notify_all()
        for delivery in unread:
            delivery.requeue()
        self._io.submit(self._stop)

    def link_up(self, connection: SelectConnection) -> None:
        if self._closed or self._channel is not None:
            return
        self._channel = connection.channel(on_open_callback=self._consume)
        self._channel.add_on_close_callback(self._on_channel_close)
        self._channel.add_on_cancel_callback(self._on_cancel)

    def link_down(self, reason: str) -> None:
        self.trouble = reason
        self._forget_channel()

    def _begin(self) -> None:
        self._link.add_user(self)
        self._link.open()
        self._attach()

    def _attach(self) -> None:
        if self._link.connection is not None:
            self.link_up(self._link.connection)

    def _consume(self, channel: Channel) -> None:
        if not self._lives(channel):
            return
        if self._closed:
            self._leave_when_done()
            return
        queue = self._source.prepare(channel)
        self._consumer_tag = channel.basic_consume(
            queue, self._on_message, auto_ack=self._source.auto_ack, callback=self._on_consuming
        )

    def _on_consuming(self, _frame: Method) -> None:
        self._failures = 0
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def _on_message(self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        if not self._source.auto_ack:
            self._unsettled += 1
        settle = partial(self._settle_later, channel, method.delivery_tag)
        delivery = RabbitDelivery(method, properties, body, settle)
        with self._changed:
            if not self._closed:
                self._arrived.append(delivery)
                self._changed.notify_all()
                return
        delivery.requeue()

    def _settle_later(self, channel: Channel, tag: int, ack: bool) -> None:
        if not self._source.auto_ack:
            self._io.submit(partial(self._settle, channel, tag, ack))

    def _settle(self, channel: Channel, tag: int, ack: bool) -> None:
        # A delivery of a channel that is gone is the server's again; its tag may mean another message here.
        if not self._lives(channel):
            return
        if ack:
            channel.basic_ack(tag)
        else:
            channel.basic_nack(tag, requeue=True)
        self._unsettled -= 1
        self._leave_when_done()

    def _on_cancel(self, _frame: Method) -> None:
        # The channel stays: a delivery still in hand can be settled on it.
        log.warning("RabbitMQ cancelled the consumer of %s; subscribing again.", self._source)
        self._consumer_tag = None
        self._io.call_later(self._pause_s(), partial(self._consume, self._channel))

    def _on_channel_close(self, channel: Channel, reason: Exception) -> None:
        if channel is not self._channel:
            return
        self._forget_channel()
        if self._closed or self._link.connection is None:
            return
        self.trouble = describe(reason)
        log.warning("RabbitMQ closed the channel of %s: %s. Subscribing again.", self._source, self.trouble)
        self._io.call_later(self._pause_s(), self._attach)

    def _forget_channel(self) -> None:
        self._channel = None
        self._consumer_tag = None
        self._unsettled = 0
        if not self._source.auto_ack:
            with self._changed:
                self._arrived.clear()

    def _stop(self) -> None:
        self._link.remove_user(self)
        if self._channel is not None and self._channel.is_open and self._consumer_tag is not None:
            self._channel.basic_cancel(self._consumer_tag)
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        if self._closed and self._unsettled == 0 and self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _lives(self, channel: Channel) -> bool:
        return bool(channel.is_open) and channel is self._channel

    def _pause_s(self) -> float:
        self._failures += 1
        longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 10))
        return longest * random.uniform(0.5, 1.0)
