"""A wall clock that jumps: what a process gets whose machine's clock is set back and forth by up to an hour."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

JUMPS_S = (-3600.0, -60.0, 0.0, 60.0, 3600.0)
HOLDS_S = 4.0


class JumpingClock:
    """Stays `HOLDS_S` seconds at one of the offsets, then jumps to another; which ones follows from the seed.

    `jumped` is told each new offset, in seconds.
    """

    def __init__(self, seed: int, jumped: Callable[[float], object]) -> None:
        self._seed = seed
        self._jumped = jumped
        self._began = time.monotonic()
        self._offset_s = 0.0

    def now(self) -> datetime:
        """The instant that this clock shows, in UTC."""
        period = int((time.monotonic() - self._began) / HOLDS_S)
        offset_s = offset_of(self._seed, period)
        if offset_s != self._offset_s:
            self._offset_s = offset_s
            self._jumped(offset_s)
        return datetime.now(UTC) + timedelta(seconds=offset_s)


def offset_of(seed: int, period: int) -> float:
    """The clock's error in one of its periods, in seconds."""
    return 0.0 if period == 0 else Random(f"{seed}/{period}").choice(JUMPS_S)
