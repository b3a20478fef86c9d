"""Publishes with confirms, many at a time, and never leaves a caller in the dark."""

import threading
import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass

from pika import BasicProperties, DeliveryMode, SelectConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

from shared.broker.port import Outgoing
from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.trouble import describe
from shared.contracts.errors import Permanent, QueueFull, Transient

RENEWAL_PAUSE_S = 0.5


@dataclass(slots=True, eq=False)
class _Pending:
    """A publish under way. `heard` is how many bytes the server had sent when it went out."""

    message: Outgoing
    future: Future[None]
    deadline: float
    heard: int = 0
    returned: str | None = None


class Publisher:
    """Messages wait in `_outbox` until the channel is there, then by delivery tag in `_unconfirmed`.

    Those that waited when a connection was lost go out on the next one. Those that were written and not confirmed
    fail: whether the server has them is unknown, and only the caller can say what a repetition means.

    After a refusal the channel is renewed, once nothing is under way on it: RabbitMQ 3.10 answers each further message
    with a refusal on a channel whose first one met a quorum queue without a leader.
    """

    def __init__(self, io: IoThread, link: Link, limit_s: float) -> None:
        self._io = io
        self._link = link
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._closed = False
        self._outbox: deque[_Pending] = deque()
        self._unconfirmed: dict[int, _Pending] = {}
        self._channel: Channel | None = None
        self._opened_at = 0.0
        self._doubtful = False
        self._next_tag = 1
        self._watching = False
        link.add_user(self)

    def send(self, message: Outgoing) -> Future[None]:
        """Publish; see the port. The future's callbacks run in the I/O thread: they must not wait. Any thread."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                future.set_exception(Transient(f"{_name(message)} was not published: the broker is closed."))
                return future
            self._outbox.append(_Pending(message, future, time.monotonic() + self._limit_s))
        self._io.submit(self._flush)
        return future

    def settle(self, timeout_s: float) -> None:
        """Take no more messages and wait until those under way are confirmed, or the time is up. Any thread.

        What the I/O thread was asked to send before is still taken.
        """
        snapshot: Future[list[Future[None]]] = Future()
        self._io.submit(lambda: snapshot.set_result(self._end()))
        wait(snapshot.result(), timeout_s)

    def fail_rest(self) -> None:
        """Tell all who still wait. Only once the I/O thread has ended."""
        for pending in (*self._unconfirmed.values(), *self._outbox):
            _fail(pending, "the broker was closed first")
        self._unconfirmed.clear()
        self._outbox.clear()

    def link_up(self, connection: SelectConnection) -> None:
        """Open a channel in confirm mode; the outbox follows when it is ready."""
        channel = connection.channel(on_open_callback=self._on_channel_open)
        channel.add_on_close_callback(self._on_channel_close)

    def link_down(self, reason: str) -> None:
        """Fail what was written and not confirmed."""
        self._drop_channel(reason)

    def _end(self) -> list[Future[None]]:
        with self._lock:
            self._closed = True
        return [pending.future for pending in (*self._unconfirmed.values(), *self._outbox)]

    def _on_channel_open(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)

        def ready(_frame: Method) -> None:
            self._channel = channel
            self._opened_at = time.monotonic()
            self._doubtful = False
            self._next_tag = 1
            self._flush()

        channel.confirm_delivery(self._on_confirm, callback=ready)

    def _on_channel_close(self, _channel: Channel, reason: Exception) -> None:
        self._drop_channel(describe(reason))
        connection = self._link.connection
        if connection is not None:
            self.link_up(connection)

    def _drop_channel(self, reason: str) -> None:
        self._channel = None
        lost, self._unconfirmed = self._unconfirmed, {}
        for pending in lost.values():
            _fail(pending, f"the connection was lost first ({reason})")

    def _flush(self) -> None:
        if self._channel is None:
            self._link.open()
        while self._outbox and self._channel is not None and self._channel.is_open and not self._doubtful:
            self._write(self._channel, self._outbox.popleft())
        self._watch()

    def _renew_when_idle(self) -> None:
        if self._doubtful and not self._unconfirmed and self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _write(self, channel: Channel, pending: _Pending) -> None:
        message = pending.message
        try:
            channel.basic_publish(
                message.exchange,
                message.routing_key,
                message.body,
                BasicProperties(
                    content_type="application/json",
                    delivery_mode=DeliveryMode.Persistent.value,
                    message_id=message.message_id,
                    headers=dict(message.headers),
                ),
                mandatory=message.mandatory,
            )
        except Exception as error:  # noqa: BLE001 - pika raises many classes for what AMQP cannot carry
            pending.future.set_exception(Permanent(f"{_name(message)} cannot be sent over AMQP: {error!r}."))
            return
        pending.heard = channel.connection.bytes_received
        self._unconfirmed[self._next_tag] = pending
        self._next_tag += 1

    def _on_return(self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        # A return names no delivery tag. It precedes its confirmation, and returns come in the order of publishing,
        # so it belongs to the oldest message of that name and address that has none yet.
        address = (method.exchange, method.routing_key, properties.message_id)
        for pending in self._unconfirmed.values():
            message = pending.message
            if pending.returned is None and address == (message.exchange, message.routing_key, message.message_id):
                pending.returned = f"no queue takes it ({method.reply_text})"
                return

    def _on_confirm(self, frame: Method) -> None:
        method = frame.method
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        else:
            tags = [method.delivery_tag]
        for tag in tags:
            pending = self._unconfirmed.pop(tag, None)
            if pending is None:
                continue
            if isinstance(method, Basic.Nack):
                self._doubtful = self._doubtful or time.monotonic() - self._opened_at > RENEWAL_PAUSE_S
                _fail(pending, "RabbitMQ refused it (nack): a queue is full, or has no leader just now", QueueFull)
            elif pending.returned is not None:
                _fail(pending, pending.returned)
            else:
                pending.future.set_result(None)
        self._renew_when_idle()

    def _watch(self) -> None:
        oldest = self._oldest()
        if oldest is not None and not self._watching:
            self._watching = True
            self._io.call_later(max(0.0, oldest.deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._watching = False
        now = time.monotonic()
        while self._outbox and self._outbox[0].deadline <= now:
            _fail(self._outbox.popleft(), f"no connection to RabbitMQ in {self._limit_s:g} s ({self._link.trouble})")
        silent = False
        for tag in [tag for tag, pending in self._unconfirmed.items() if pending.deadline <= now]:
            pending = self._unconfirmed.pop(tag)
            silent = silent or (self._channel is not None and pending.heard == self._channel.connection.bytes_received)
            _fail(pending, self._link.blocked or f"no answer in {self._limit_s:g} s")
        self._renew_when_idle()
        if silent:
            self._link.abort("the server fell silent")
        self._watch()

    def _oldest(self) -> _Pending | None:
        if self._unconfirmed:
            return next(iter(self._unconfirmed.values()))
        return self._outbox[0] if self._outbox else None


def _name(message: Outgoing) -> str:
    return f"Message {message.message_id!r} to {message.exchange or 'queue'} {message.routing_key!r}"


def _fail(pending: _Pending, reason: str, kind: type[Transient] = Transient) -> None:
    pending.future.set_exception(kind(f"{_name(pending.message)} is not confirmed: {reason}."))
