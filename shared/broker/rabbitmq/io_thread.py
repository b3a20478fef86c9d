"""The one thread that talks to RabbitMQ: it runs pika's I/O loop, and other threads hand it jobs."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from pika.adapters.select_connection import IOLoop

log = logging.getLogger(__name__)

TICK_S = 1.0


class IoThread:
    """Runs jobs, timers and connections one at a time, in order; heartbeats are answered here, come what may."""

    def __init__(self, on_crash: Callable[[str], None]) -> None:
        """Start the thread.

        Args:
            on_crash: called in the thread when a job raised: the connections are in doubt then.
        """
        self.loop = IOLoop()
        self._on_crash = on_crash
        self._jobs: deque[Callable[[], object]] = deque()
        self._woken = False
        self._stopped = False
        self._ticked = time.monotonic()
        self.loop.call_later(TICK_S, self._tick)
        self._thread = threading.Thread(target=self._run, name="rabbitmq-io", daemon=True)
        self._thread.start()

    @property
    def age_s(self) -> float:
        """Seconds since the thread last showed that it runs; up to about one in health."""
        return time.monotonic() - self._ticked

    def submit(self, job: Callable[[], object]) -> None:
        """Have a job run in the thread, after those submitted before it. From any thread."""
        self._jobs.append(job)
        # Waking the loop costs a system call, so a burst of jobs wakes it once. The flag is cleared before the
        # jobs are taken: whoever saw it set has already appended theirs.
        if not self._woken:
            self._woken = True
            self.loop.add_callback_threadsafe(self._work)

    def call_later(self, delay_s: float, job: Callable[[], None]) -> None:
        """Have a job run after a while. Only from the thread itself."""
        self.loop.call_later(delay_s, job)

    def stop(self) -> None:
        """End the thread and release its sockets. From any other thread; jobs submitted later never run."""
        self._stopped = True
        self.loop.add_callback_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self.loop.call_later(TICK_S, self._tick)

    def _work(self) -> None:
        self._woken = False
        while self._jobs:
            self._jobs.popleft()()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.loop.start()
            except Exception as error:
                log.exception("The RabbitMQ I/O thread hit an unexpected error; it reconnects.")
                self._woken = False
                self._on_crash(f"an unexpected {type(error).__name__} in the I/O thread")
                self.loop.add_callback_threadsafe(self._work)
