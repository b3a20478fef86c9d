"""How long a step has been at work: its wait for the device is left out, since nothing hangs meanwhile."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

T = TypeVar("T")


class Watch:
    """Runs from the start. The step's thread pauses it, another reads it.

    Args:
        clock: seconds that only ever rise.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting."""
        with self._lock:
            self._waits_since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._waited_s, self._waits_since = self._waited(), None

    def waited_s(self) -> float:
        """Seconds of waiting so far."""
        with self._lock:
            return self._waited()

    def worked_s(self) -> float:
        """All other seconds since the start."""
        with self._lock:
            return self._clock() - self._started - self._waited()

    def result(self, attempt: Future[T], limit_s: float) -> T:
        """What the attempt gives.

        Raises:
            TimeoutError: it has been at work for longer than `limit_s`, and goes on.
            BaseException: what the attempt raised.
        """
        while (left_s := limit_s - self.worked_s()) > 0:
            if wait((attempt,), left_s).done:
                return attempt.result()
        raise TimeoutError

    def _waited(self) -> float:
        since = 0.0 if self._waits_since is None else self._clock() - self._waits_since
        return self._waited_s + since
