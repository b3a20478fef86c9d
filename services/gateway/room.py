"""How many jobs may wait, and what a caller is told for whom there is no room."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from time import monotonic

from shared.jobs.port import JobStore

REMEMBERED = 512
COUNT_AGAIN_S = 1.0
RECENT_S = 600.0
WITHOUT_EXPERIENCE_S = 60
LONGEST_WAIT_S = 3600


def seconds_until_room(surplus: int, releases: Sequence[float], at: float) -> int:
    """How long until `surplus` (1 or more) waiting jobs will have been released, at the pace of the recent releases.

    Args:
        surplus: how many have to go first.
        releases: instants of the recent releases, rising.
        at: now, on the same clock.

    Returns:
        Whole seconds, 1 to 3600; 60 where nothing was released for ten minutes.
    """
    recent = [released for released in releases if at - released <= RECENT_S]
    if not recent:
        return WITHOUT_EXPERIENCE_S
    per_release_s = (at - recent[0]) / len(recent)
    return min(LONGEST_WAIT_S, max(1, ceil(surplus * per_release_s)))


class Pace:
    """The last few hundred releases of this process, whose they were and when. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._releases: deque[tuple[float, str]] = deque(maxlen=REMEMBERED)

    def released(self, caller: str) -> None:
        """A job of a caller was released now."""
        with self._lock:
            self._releases.append((self._clock(), caller))

    def seconds_until_room(self, surplus: int, caller: str | None = None) -> int:
        """As the function of that name, by all releases or by those of a caller."""
        with self._lock:
            releases = [at for at, whose in self._releases if caller in {None, whose}]
        return seconds_until_room(surplus, releases, self._clock())


class Room:
    """Says whether another job may wait. For one thread.

    Counts in the job store at most once a second, and in between by itself: the limits are kept nearly, the store is
    not asked for each request.
    """

    def __init__(
        self, jobs: JobStore, limit: int, limit_per_caller: int, pace: Pace, clock: Callable[[], float] = monotonic
    ) -> None:
        self._jobs = jobs
        self._limit = limit
        self._limit_per_caller = limit_per_caller
        self._pace = pace
        self._clock = clock
        self._counted_at = -COUNT_AGAIN_S
        self._waiting: dict[str | None, int] = {}

    def wait_s(self, caller: str, wanted: int = 1) -> int | None:
        """None where there is room for so many more jobs of a caller; else in how many seconds to ask again."""
        if self._clock() - self._counted_at >= COUNT_AGAIN_S:
            self._counted_at = self._clock()
            self._waiting.clear()
        over = self._count(None) + wanted - self._limit
        over_own = self._count(caller) + wanted - self._limit_per_caller
        waits = [
            *([self._pace.seconds_until_room(over)] if over > 0 else []),
            *([self._pace.seconds_until_room(over_own, caller)] if over_own > 0 else []),
        ]
        return max(waits, default=None)

    def taken(self, caller: str) -> None:
        """A job of a caller waits now."""
        for whose in (None, caller):
            if whose in self._waiting:
                self._waiting[whose] += 1

    def _count(self, caller: str | None) -> int:
        if caller not in self._waiting:
            self._waiting[caller] = self._jobs.waiting(caller=caller)
        return self._waiting[caller]
