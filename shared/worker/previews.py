"""Pictures of a step in the making, put into the store beside its work. Losing one harms nothing."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from time import monotonic

from shared.contracts.artifacts import ArtifactRef
from shared.storage.layout import artifact_ref
from shared.storage.port import ArtifactStore

log = logging.getLogger(__name__)

LARGEST_BYTES = 16 * 1024
INTERVAL_S = 2.0
"""At most one picture in so long is stored: engines may show one at every step, and the store is not to be flooded."""
PATIENCE_S = 5.0
"""How long a step that has ended is still said to be in hand, so that an erasure waits for its last picture, too."""
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Previews:
    """Of one attempt at a step. `show` and `take` are called by the thread that computes, `close` by the worker's.

    None of them raises, whatever becomes of the store.

    Args:
        store: where pictures go, as the subject's `intermediate` artifacts, which no manifest names.
        io: stores them, one at a time.
        subject: of the step.
        clock: seconds that only ever rise.
    """

    def __init__(
        self, store: ArtifactStore, io: Executor, subject: str, clock: Callable[[], float] = monotonic
    ) -> None:
        self._store = store
        self._io = io
        self._subject = subject
        self._clock = clock
        self._shown_at: float | None = None
        self._storing: Future[ArtifactRef] | None = None
        self._stored: ArtifactRef | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._abandoned = threading.Event()

    def show(self, picture: bytes) -> None:
        """Begin to store a JPEG or PNG of at most LARGEST_BYTES.

        One that comes sooner than INTERVAL_S after the last, or while the store is still busy with that, is dropped.
        """
        with self._lock:
            self._collect()
            if self._closed or self._storing is not None or self._is_too_soon():
                return
            media_type = next((kind for magic, kind in _MAGIC.items() if picture.startswith(magic)), None)
            if media_type is None or len(picture) > LARGEST_BYTES:
                log.warning(
                    "a preview of %d bytes is dropped: %s; engines show a JPEG or PNG of at most %d bytes",
                    len(picture),
                    media_type or "neither JPEG nor PNG",
                    LARGEST_BYTES,
                )
                return
            self._shown_at = self._clock()
            self._storing = self._io.submit(self._put, picture, media_type)

    def take(self) -> ArtifactRef | None:
        """The newest picture that has been stored since the last call, if any."""
        with self._lock:
            self._collect()
            taken, self._stored = self._stored, None
            return taken

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Take no more. Waits for a picture that is being stored; if that takes too long, it is removed once it is.

        So nothing of the subject is written behind the back of an erasure, which waits for what workers have in hand.
        """
        with self._lock:
            self._closed = True
            storing = self._storing
        if storing is not None and not storing.cancel() and wait((storing,), patience_s).not_done:
            log.warning("the store has been busy with a preview for %g s; it is given up", patience_s)
            self._abandoned.set()
        with self._lock:
            self._collect()

    def _is_too_soon(self) -> bool:
        return self._shown_at is not None and self._clock() - self._shown_at < INTERVAL_S

    def _put(self, picture: bytes, media_type: str) -> ArtifactRef:
        ref = artifact_ref(self._subject, "intermediate", picture, media_type)
        is_new = self._store.put(ref.key, picture, media_type)
        if is_new and self._abandoned.is_set():
            self._store.delete(ref.key)
        return ref

    def _collect(self) -> None:
        if self._storing is None or not self._storing.done():
            return
        storing, self._storing = self._storing, None
        if storing.cancelled():
            return
        error = storing.exception()
        if error is not None:
            log.warning("a preview could not be stored: %s", error)
            return
        self._stored = storing.result()
