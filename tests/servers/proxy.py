"""A small TCP proxy on the loopback interface that breaks connections on demand."""

import asyncio
import socket
import struct
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

ABORT_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 65_536


class FaultyProxy:
    """Passes bytes between `port` and an upstream port, until told otherwise. A context manager.

    `accepted` counts the connections made so far.

    The faults hold for connections that stand and for new ones, until the next call.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._upstream_port = upstream_port
        self._delay_s = 0.0
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def pass_through(self) -> None:
        """Pass everything on at once; what a black hole held back is delivered now, as TCP would."""
        self._run(self._become(flowing=True, delay_s=0.0, refusing=False))

    def delay(self, seconds: float) -> None:
        """Hold each piece of data for so long, in both directions."""
        self._run(self._become(flowing=True, delay_s=seconds, refusing=False))

    def black_hole(self) -> None:
        """Keep every connection open and deliver nothing; new ones are accepted and hear nothing."""
        self._run(self._become(flowing=False, delay_s=0.0, refusing=False))

    def refuse(self) -> None:
        """Reset all connections and every new one."""
        self._run(self._become(flowing=True, delay_s=0.0, refusing=True))
        self.reset()

    def reset(self) -> None:
        """Reset the connections that stand (TCP RST), once."""
        self._run(self._reset())

    def lead_to(self, upstream_port: int) -> None:
        """Lead new connections to another port; those that stand stay where they are."""
        self._upstream_port = upstream_port

    def _run(self, coroutine: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _become(self, *, flowing: bool, delay_s: float, refusing: bool) -> None:
        self._delay_s = delay_s
        self._refusing = refusing
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _reset(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def _close(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            _reset(writer)
            return
        both = {writer, up_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pipe(reader, up_writer), self._pipe(up_reader, writer))
        except asyncio.CancelledError:
            pass  # the proxy closes
        finally:
            for each in both:
                each.transport.abort()
            self._writers -= both

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side is gone; the other learns it below
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    plain = writer.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
    writer.transport.abort()
