"""What the pipeline asks of an object store. Two adapters: S3 (the `minio` client) and a folder."""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol


class ArtifactStore(Protocol):
    """Immutable blobs by key. Thread-safe. Commits are atomic: a reader sees a whole blob or none.

    Keys are `shared.contracts.base.ObjectKey`; any other raises InvalidInput. Every method raises Transient where the
    store cannot be reached or is out of order, and Permanent where it refuses (rights, bucket, keys of access).
    """

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        """Commit a blob under a key unless one stands there. Returns whether it was written.

        Of several writers at once exactly one is told True, except that a writer whose connection broke after
        the server had committed its blob is told False when it tries again.

        Raises:
            ResourceExhausted: no room is left.
        """

    def replace(self, key: str, data: bytes, media_type: str) -> None:
        """Commit a blob, taking the place of whatever stands there. For manifests cut short and nothing else.

        Raises:
            ResourceExhausted: no room is left.
        """

    def get(self, key: str) -> bytes | None:
        """The whole blob, or None where there is none. A download cut short raises Transient."""

    def delete(self, key: str) -> None:
        """Remove a blob; harmless where there is none."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with a prefix, in lexical order. The prefix may end anywhere in a name, or be empty."""

    def committed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """The same keys, each with the instant at which its blob was committed: aware, by the store's own clock."""
