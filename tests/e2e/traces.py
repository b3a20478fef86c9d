"""Looks for what is left of a person: windows of their blobs, and their id, wherever bytes are kept."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, inspect, text

from shared.storage.digest import sha256
from shared.storage.port import ArtifactStore
from tests.servers.rabbitmq import RabbitNode

WINDOW_BYTES = 32
VARIETY = 12
"""Windows with fewer different bytes say little: a run of zeros is in every picture."""


def windows(blob: bytes, count: int = 5) -> set[bytes]:
    """Pieces from all over a blob that hardly occur by chance."""
    step = max(1, (len(blob) - WINDOW_BYTES) // (count * 8))
    pieces = (blob[start : start + WINDOW_BYTES] for start in range(0, max(1, len(blob) - WINDOW_BYTES), step))
    telling = [piece for piece in pieces if len(set(piece)) >= VARIETY]
    return set(telling[:: max(1, len(telling) // count)])


def traces_of(blobs: Iterable[bytes], ordinary: Iterable[bytes] = ()) -> set[bytes]:
    """What betrays these blobs: pieces of them that no ordinary blob has, too, and their digests in hexadecimal."""
    found: set[bytes] = set()
    for blob in blobs:
        found |= windows(blob) | {sha256(blob).encode()}
    return found - {piece for blob in ordinary for piece in found if piece in blob}


def found_in(places: Iterable[tuple[str, bytes]], traces: Iterable[bytes]) -> list[str]:
    """Where a trace was found."""
    wanted = list(traces)
    return [f"{place}: {trace!r}" for place, content in places for trace in wanted if trace in content]


def in_store(store: ArtifactStore) -> Iterator[tuple[str, bytes]]:
    """Every object, its key put before its bytes."""
    for key in store.keys(""):
        yield key, key.encode() + (store.get(key) or b"")


def in_database(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table of a PostgreSQL database."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars():  # noqa: S608 - a name
                yield table, row.encode()
    engine.dispose()


def in_broker(node: RabbitNode, virtual_host: str) -> Iterator[tuple[str, bytes]]:
    """Every message that waits in a queue; it is put back. Listeners' private queues are theirs alone to read."""
    host = quote(virtual_host, safe="")
    for queue in node.api("GET", f"/queues/{host}"):
        if queue["exclusive"]:
            continue
        ask: Mapping[str, Any] = {"count": 100_000, "ackmode": "ack_requeue_true", "encoding": "auto"}
        for message in node.api("POST", f"/queues/{host}/{quote(queue['name'], safe='')}/get", ask):
            yield queue["name"], json.dumps(message).encode()


def in_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, its name put before its bytes; those that go meanwhile are passed over."""
    for path in sorted(folder.rglob("*")):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        yield str(path.relative_to(folder)), str(path.relative_to(folder)).encode() + content
