"""Keeps a process alive around its loops until somebody tells it to end."""

import logging
import signal
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

log = logging.getLogger(__name__)


class Loop(Protocol):
    """Something that works in the thread that calls `run`, until `stop`."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def serve(loops: Sequence[Loop], grace_s: float, ending: threading.Event | None = None) -> int:
    """Run every loop in a thread of its own until SIGTERM or SIGINT, or until one of them breaks.

    Returns the exit status: 0 after a signal, 1 after a break. Loops get `grace_s` seconds together to come to an
    end; one that is still at work then is left behind in its daemon thread. `ending` is set when the end begins.
    """
    told = ending or threading.Event()
    broken = threading.Event()

    def work(loop: Loop) -> None:
        try:
            loop.run()
        except BaseException:
            log.exception("%s cannot go on", type(loop).__name__)
            broken.set()
        finally:
            told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    threads = [threading.Thread(target=work, args=(loop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    told.wait()
    for loop in loops:
        loop.stop()
    until = monotonic() + grace_s
    for thread in threads:
        thread.join(max(0.0, until - monotonic()))
    return 1 if broken.is_set() else 0
