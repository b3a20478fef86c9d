"""Fakes that honour the ports. MemoryStore passes the storage contract suite."""

import threading
from collections.abc import Iterator

from shared.contracts.base import Contract, ObjectKey


class _Key(Contract):
    key: ObjectKey


class MemoryStore:
    """An ArtifactStore in a dictionary. Counts what was read and written."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.written: list[str] = []
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        _Key(key=key)
        with self._lock:
            if key in self.blobs:
                return False
            self.blobs[key] = data
            self.written.append(key)
            return True

    def replace(self, key: str, data: bytes, media_type: str) -> None:
        with self._lock:
            self.blobs[_Key(key=key).key] = data
            self.written.append(key)

    def get(self, key: str) -> bytes | None:
        return self.blobs.get(key)

    def delete(self, key: str) -> None:
        with self._lock:
            self.blobs.pop(key, None)

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.blobs if key.startswith(prefix)))
