"""An HTTP server that answers what a test tells it to, byte for byte, or not at all."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

NEVER = None
"""The answer that does not come: the connection stays open until the server closes."""


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Request], bytes | None]


def answer(
    status: int, body: bytes = b"", *, length: int | None = None, content_type: str = "application/xml"
) -> bytes:
    """A whole HTTP answer. `length` is what it claims; the body may be shorter."""
    claimed = len(body) if length is None else length
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {content_type}\r\nContent-Length: {claimed}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def s3_error(status: int, code: str, message: str = "") -> bytes:
    """An S3 server's refusal."""
    return answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


class ScriptedServer:
    """A context manager. `requests` holds what came in, in order.

    With `hold_open` a connection stays open after the answer until the server closes, whatever the answer says.
    """

    def __init__(self, script: Script, *, hold_open: bool = False) -> None:
        self.requests: list[Request] = []
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(script, hold_open=hold_open))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="scripted-http")

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self, script: Script, *, hold_open: bool) -> type[BaseHTTPRequestHandler]:
        requests, closing = self.requests, self._closing

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    return
                self.close_connection = True
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, dict(self.headers.items()), body)
                requests.append(request)
                said = script(request)
                if said is not NEVER:
                    self.wfile.write(said)
                if said is NEVER or hold_open:
                    closing.wait()

        return Handler
