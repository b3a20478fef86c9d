"""Fakes that honour the ports. MemoryStore passes the storage contract suite."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from shared.storage.keys import checked_key, checked_prefix


class MemoryStore:
    """An ArtifactStore in a dictionary; `written` tells what was written, in order, `written_at` when."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.written: list[str] = []
        self.written_at: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        with self._lock:
            if checked_key(key) in self.blobs:
                return False
            self.blobs[key] = data
            self.written.append(key)
            self.written_at[key] = datetime.now(UTC)
            return True

    def replace(self, key: str, data: bytes, media_type: str) -> None:
        with self._lock:
            self.blobs[checked_key(key)] = data
            self.written.append(key)
            self.written_at[key] = datetime.now(UTC)

    def get(self, key: str) -> bytes | None:
        return self.blobs.get(checked_key(key))

    def delete(self, key: str) -> None:
        with self._lock:
            self.blobs.pop(checked_key(key), None)

    def keys(self, prefix: str) -> Iterator[str]:
        checked_prefix(prefix)
        with self._lock:
            return iter(sorted(key for key in self.blobs if key.startswith(prefix)))

    def committed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        return iter([(key, self.written_at[key]) for key in self.keys(prefix)])
