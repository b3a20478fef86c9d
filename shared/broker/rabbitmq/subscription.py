"""Consumers that outlive their connection."""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from pika import BasicProperties, SelectConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

from shared.broker.port import Outgoing
from shared.broker.rabbitmq.delivery import RabbitDelivery, Verdict
from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.sources import Drawing, Source
from shared.broker.rabbitmq.trouble import describe

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LISTENER_BUFFER = 10_000


class RabbitSubscription:
    """A consumer on a channel of its own; on a lost connection or a server-side cancel it subscribes again.

    `receive`, `close` and `wait_ready` are for callers' threads, the rest runs in the I/O thread. What nobody has
    received is handed back by publishing it again, confirmed, and then acknowledging it, so that it does not count as
    delivered in vain.
    """

    def __init__(self, io: IoThread, link: Link, source: Source, send: Callable[[Outgoing], Future[None]]) -> None:
        self.trouble = ""
        self._send = send
        self._io = io
        self._link = link
        self._source = source
        self._changed = threading.Condition()
        self._arrived: deque[RabbitDelivery] = deque(maxlen=LISTENER_BUFFER)
        self._in_hand: RabbitDelivery | None = None
        self._closed = False
        self._ready = False
        self._channel: Channel | None = None
        self._drawing: Drawing | None = None
        self._unsettled = 0
        self._failures = 0
        io.submit(self._begin)

    def receive(self, timeout_s: float | None = None) -> RabbitDelivery | None:
        with self._changed:
            self._changed.wait_for(lambda: self._may_take() or self._closed, timeout_s)
            if self._closed or not self._may_take():
                return None
            delivery = self._arrived.popleft()
            if not self._source.auto_ack:
                self._in_hand = delivery
            return delivery

    @property
    def registered(self) -> bool:
        """Whether the server has this consumer now; one that is closed needs none. From any thread."""
        drawing = self._drawing
        return self._closed or self._in_hand is not None or (drawing is not None and drawing.standing)

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
            self._io.submit(partial(self._hand_back, delivery))
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

    def _may_take(self) -> bool:
        return bool(self._arrived) and self._in_hand is None

    def _consume(self, channel: Channel | None) -> None:
        if channel is None or not self._lives(channel):
            return
        if self._closed:
            self._leave_when_done()
            return
        self._drawing = self._source.draw(channel, self._on_message, self._on_standing)
        self._go_on_when_done()

    def _on_standing(self) -> None:
        self._failures = 0
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def _on_message(
        self,
        rank: int,
        channel: Channel,
        method: Basic.Deliver | Basic.GetOk,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        if not self._source.auto_ack:
            self._unsettled += 1
        delivery = RabbitDelivery(channel, method, properties, body, rank, self._settle_later)
        surplus = self._keep(delivery)
        if surplus is not None:
            self._hand_back(surplus)

    def _keep(self, delivery: RabbitDelivery) -> RabbitDelivery | None:
        """Take a message in; returns the one, if any, that is too many now."""
        with self._changed:
            if self._closed:
                return delivery
            surplus = None
            if not self._source.auto_ack:
                if self._in_hand is not None or (self._arrived and self._arrived[0].rank <= delivery.rank):
                    return delivery
                surplus = self._arrived.popleft() if self._arrived else None
            self._arrived.append(delivery)
            self._changed.notify_all()
            return surplus

    def _hand_back(self, delivery: RabbitDelivery) -> None:
        if self._source.auto_ack or not self._lives(delivery.channel):
            return
        queue = self._source.queues[delivery.rank]
        again = self._send(Outgoing("", queue, delivery.body, delivery.message_id or "", delivery.headers))
        again.add_done_callback(lambda future: self._settle(delivery, "requeue" if future.exception() else "ack"))

    def _settle_later(self, delivery: RabbitDelivery, verdict: Verdict) -> None:
        if self._source.auto_ack:
            return
        with self._changed:
            if self._in_hand is delivery:
                self._in_hand = None
        self._io.submit(partial(self._settle, delivery, verdict))

    def _settle(self, delivery: RabbitDelivery, verdict: Verdict) -> None:
        # A delivery of a channel that is gone is the server's again; its tag may mean another message here.
        if not self._lives(delivery.channel):
            return
        delivery.settle_on_channel(verdict)
        self._unsettled -= 1
        self._go_on_when_done()
        self._leave_when_done()

    def _go_on_when_done(self) -> None:
        if self._unsettled > 0 or self._closed:
            return
        if self._drawing is None:
            self._draw_again()
        else:
            self._drawing.go_on()

    def _on_cancel(self, _frame: Method) -> None:
        # The channel stays: a delivery still in hand can be settled on it.
        log.warning("RabbitMQ cancelled the consumer of %s; subscribing again.", self._source)
        self._stop_drawing()
        self._io.call_later(self._pause_s(), self._draw_again)

    def _draw_again(self) -> None:
        if self._drawing is None and self._unsettled == 0:
            self._consume(self._channel)

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
        self._drawing = None
        self._unsettled = 0
        if not self._source.auto_ack:
            with self._changed:
                self._arrived.clear()
                self._in_hand = None

    def _stop(self) -> None:
        self._link.remove_user(self)
        self._stop_drawing()
        self._leave_when_done()

    def _stop_drawing(self) -> None:
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None

    def _leave_when_done(self) -> None:
        if self._closed and self._unsettled == 0 and self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _lives(self, channel: Channel) -> bool:
        return bool(channel.is_open) and channel is self._channel

    def _pause_s(self) -> float:
        self._failures += 1
        longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 10))
        return longest * random.uniform(0.5, 1.0)
