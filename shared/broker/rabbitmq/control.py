"""Questions and orders to the server that are neither publishing nor consuming, each on a channel of its own."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pika import SelectConnection
from pika.channel import Channel

from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.link import Link
from shared.broker.rabbitmq.trouble import refusal
from shared.contracts.errors import Transient

Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Call(Generic[Answer]):
    """`task` gets an open channel and a function to call with the answer. `doing` completes "refused to …"."""

    task: Callable[[Channel, Callable[[Answer], None]], None]
    doing: str
    future: Future[Answer]


class Control:
    """Runs calls; one that is cut off by a lost connection is made again on the next, so it must be repeatable."""

    def __init__(self, io: IoThread, link: Link, limit_s: float) -> None:
        self._io = io
        self._link = link
        self._limit_s = limit_s
        self._open: list[_Call[Any]] = []
        link.add_user(self)

    def call(self, task: Callable[[Channel, Callable[[Answer], None]], None], doing: str) -> Answer:
        """Make a call and wait for its answer, from any thread but the I/O thread.

        Raises:
            Transient: no answer within the time limit, or the server refused for now.
            Permanent: the server would always refuse.
        """
        call = _Call(task, doing, Future[Answer]())
        self._io.submit(lambda: self._begin(call))
        try:
            return call.future.result(self._limit_s)
        except TimeoutError:
            state = "it is connected but silent" if self._link.connection else self._link.trouble
            waited = f"did not answer in {self._limit_s:g} s when asked to {doing}"
            raise Transient(f"RabbitMQ at {self._link.address} {waited}: {state}.") from None
        finally:
            self._io.submit(lambda: self._open.remove(call))

    def link_up(self, connection: SelectConnection) -> None:
        """Make the calls that wait."""
        for call in tuple(self._open):
            self._make(call, connection)

    def link_down(self, _reason: str) -> None:
        """Let the calls wait for the next connection."""

    def fail_rest(self) -> None:
        """Tell all who still wait. Only once the I/O thread has ended."""
        for call in self._open:
            if not call.future.done():
                call.future.set_exception(Transient(f"The broker was closed when asked to {call.doing}."))

    def _begin(self, call: _Call[Any]) -> None:
        self._open.append(call)
        self._link.open()
        if self._link.connection is not None:
            self._make(call, self._link.connection)

    def _make(self, call: _Call[Any], connection: SelectConnection) -> None:
        def opened(channel: Channel) -> None:
            call.task(channel, lambda answer: finished(channel, answer))

        def finished(channel: Channel, answer: object) -> None:
            if not call.future.done():
                call.future.set_result(answer)
            channel.close()

        def closed(_channel: Channel, reason: Exception) -> None:
            if connection.is_open and not call.future.done():
                call.future.set_exception(refusal(reason, call.doing))

        if not call.future.done():
            connection.channel(on_open_callback=opened).add_on_close_callback(closed)
