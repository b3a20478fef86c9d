"""Wakes a loop that has nothing to do until something happens, or until it is time to look all the same."""

import threading


class Bell:
    """Rung from any thread; heard by one. A ring while nobody waits is heard by the next wait."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """Wake the waiting loop, or spare it its next wait."""
        self._rung.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for a ring, at most so long."""
        self._rung.wait(timeout_s)
        self._rung.clear()
