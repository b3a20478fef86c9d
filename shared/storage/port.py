"""What the pipeline asks of an object store. Two adapters: S3 (the `minio` client) and a folder."""

from collections.abc import Iterator
from typing import Protocol


class ArtifactStore(Protocol):
    """Immutable blobs by key. Thread-safe. Commits are atomic: a reader sees a whole blob or none."""

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        """Commit a blob under a key unless one stands there. Returns whether it was written.

        Raises:
            Transient: the store cannot be reached or is out of order.
            ResourceExhausted: no room is left.
        """

    def replace(self, key: str, data: bytes, media_type: str) -> None:
        """Commit a blob, taking the place of whatever stands there. For manifests cut short and nothing else."""

    def get(self, key: str) -> bytes | None:
        """The blob, or None where there is none. Raises Transient."""

    def delete(self, key: str) -> None:
        """Remove a blob; harmless where there is none. Raises Transient."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in lexical order."""
