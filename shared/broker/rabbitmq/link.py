"""One AMQP connection kept alive: opened on first use, reopened with backoff and jitter until it is closed."""

import logging
import random
import threading
from collections.abc import Sequence
from typing import Protocol

from pika import SelectConnection
from pika.connection import Parameters
from pika.exceptions import AMQPConnectionError
from pika.frame import Method

from shared.broker.rabbitmq.io_thread import IoThread
from shared.broker.rabbitmq.trouble import describe

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class LinkUser(Protocol):
    """Who lives on a connection and is told of its comings and goings, in the I/O thread."""

    def link_up(self, connection: SelectConnection) -> None:
        """The connection is open."""

    def link_down(self, reason: str) -> None:
        """The connection is lost with all its channels."""


class Link:
    """A connection that comes back, to each of several servers in turn. All but `wait_closed` runs in the I/O thread.

    `trouble` says why there is, or last was, no connection; `blocked` why the server takes no messages, if so.
    """

    def __init__(self, io: IoThread, servers: Sequence[Parameters], purpose: str) -> None:
        self.trouble = "not connected yet"
        self.blocked = ""
        self._io = io
        self._servers = servers
        self._turn = 0
        self._purpose = purpose
        self._users: list[LinkUser] = []
        self._current: SelectConnection | None = None
        self._failures = 0
        self._closing = False
        self._closed = threading.Event()

    @property
    def connection(self) -> SelectConnection | None:
        """The open connection, or None while there is none."""
        return self._current if self._current is not None and self._current.is_open else None

    @property
    def in_use(self) -> bool:
        """Whether anybody asked for the connection yet."""
        return self._current is not None

    def add_user(self, user: LinkUser) -> None:
        """Have a user told from now on."""
        self._users.append(user)

    def remove_user(self, user: LinkUser) -> None:
        """Tell a user no more."""
        self._users.remove(user)

    def open(self) -> None:
        """Connect, unless that has begun already."""
        if self._current is None and not self._closing:
            self._connect()

    def abort(self, reason: str) -> None:
        """Drop the connection without a word to the server, which may not be listening."""
        if self._current is not None and not self._current.is_closed:
            # pika has no public way to leave a connection whose peer is silent; its own heartbeat check does this.
            self._current._terminate_stream(AMQPConnectionError(reason))  # noqa: SLF001

    def close(self) -> None:
        """Send what is buffered, say goodbye, and never come back."""
        self._closing = True
        if self._current is None or self._current.is_closed:
            self._closed.set()
        elif not self._current.is_closing:
            self._current.close()

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until `close` is through; False when the time is up first. From any other thread."""
        return self._closed.wait(timeout_s)

    def _connect(self) -> None:
        self._current = SelectConnection(
            self._server,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._io.loop,
        )

    def _on_open(self, connection: SelectConnection) -> None:
        log.info("Connected to RabbitMQ at %s for %s.", self.address, self._purpose)
        self._failures = 0
        self.blocked = ""
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        for user in tuple(self._users):
            user.link_up(connection)

    def _on_blocked(self, _connection: SelectConnection, frame: Method) -> None:
        self.blocked = f"RabbitMQ accepts no messages at present: {frame.method.reason}"
        log.warning("%s.", self.blocked)

    def _on_unblocked(self, _connection: SelectConnection, _frame: Method) -> None:
        self.blocked = ""

    def _on_lost(self, _connection: SelectConnection, error: Exception) -> None:
        self.trouble = describe(error)
        for user in tuple(self._users):
            user.link_down(self.trouble)
        if self._closing:
            self._closed.set()
            return
        rounds = self._failures // len(self._servers)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(rounds, 10)) * random.uniform(0.5, 1.0)
        self._failures += 1
        log.warning(
            "No connection to RabbitMQ at %s for %s: %s. Trying again in %.1f s.",
            self.address,
            self._purpose,
            self.trouble,
            pause_s,
        )
        self._turn += 1
        self._io.call_later(pause_s, self._reconnect)

    def _reconnect(self) -> None:
        if not self._closing:
            self._connect()

    @property
    def _server(self) -> Parameters:
        return self._servers[self._turn % len(self._servers)]

    @property
    def address(self) -> str:
        """Host and port of the server that is connected to, or tried."""
        return f"{self._server.host}:{self._server.port}"
