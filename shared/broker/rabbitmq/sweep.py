"""Goes once through the messages that wait in a queue."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pika import BasicProperties
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

from shared.broker.port import Outgoing
from shared.broker.rabbitmq.delivery import RabbitDelivery, Verdict
from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.trouble import refusal
from shared.contracts.errors import Transient

Answer = TypeVar("Answer")


class Sweeper:
    """Takes messages out of one queue, one at a time, on a channel of its own. One use, from one thread."""

    def __init__(self, io: IoThread, link: Link, queue: str, limit_s: float) -> None:
        """Prepare.

        Args:
            io: the thread that talks to the server.
            link: the connection to use.
            queue: the queue to sweep.
            limit_s: how long the server may take for each answer.
        """
        self._io = io
        self._link = link
        self._queue = queue
        self._limit_s = limit_s
        self._opened: Future[Channel] = Future()
        self._taken: Future[RabbitDelivery | None] = Future()
        self._closed: Future[None] = Future()

    def run(self, count: int, doomed: Callable[[bytes], bool], publish: Callable[[Outgoing], None]) -> int:
        """Look at up to `count` messages; returns how many were removed.

        Raises:
            Transient: no connection, or it was lost, or a message could not be published again.
        """
        self._io.submit(self._open)
        channel = self._wait(self._opened)
        removed = 0
        try:
            for _ in range(count):
                delivery = self._take(channel)
                if delivery is None:
                    break
                if doomed(delivery.body):
                    removed += 1
                else:
                    publish(Outgoing("", self._queue, delivery.body, delivery.message_id or "", delivery.headers))
                delivery.ack()
        finally:
            # The server answers once it has heard every acknowledgement; what was not acknowledged stays in the queue.
            self._io.submit(lambda: channel.close() if channel.is_open else None)
            self._wait(self._closed)
        return removed

    def _open(self) -> None:
        connection = self._link.connection
        if connection is None:
            self._opened.set_exception(Transient(f"{self._queue} cannot be swept: {self._link.trouble}."))
            return
        channel = connection.channel(on_open_callback=self._opened.set_result)
        channel.add_on_close_callback(self._on_close)
        channel.add_callback(self._on_empty, [Basic.GetEmpty], one_shot=False)

    def _take(self, channel: Channel) -> RabbitDelivery | None:
        self._taken = Future()
        self._io.submit(lambda: self._get(channel))
        return self._wait(self._taken)

    def _get(self, channel: Channel) -> None:
        if channel.is_open:
            channel.basic_get(self._queue, self._on_got)
        else:
            self._taken.set_exception(Transient(f"The connection was lost while {self._queue} was swept."))

    def _on_got(self, channel: Channel, method: Basic.GetOk, properties: BasicProperties, body: bytes) -> None:
        self._taken.set_result(RabbitDelivery(channel, method, properties, body, 0, self._settle_later))

    def _on_empty(self, _frame: Method) -> None:
        self._taken.set_result(None)

    def _settle_later(self, delivery: RabbitDelivery, verdict: Verdict) -> None:
        self._io.submit(lambda: delivery.settle_on_channel(verdict) if delivery.channel.is_open else None)

    def _on_close(self, _channel: Channel, reason: Exception) -> None:
        self._closed.set_result(None)
        for waiting in (self._opened, self._taken):
            if not waiting.done():
                waiting.set_exception(refusal(reason, f"sweep {self._queue}"))

    def _wait(self, answer: Future[Answer]) -> Answer:
        try:
            return answer.result(self._limit_s)
        except TimeoutError:
            raise Transient(f"RabbitMQ did not answer in {self._limit_s:g} s while {self._queue} was swept.") from None
