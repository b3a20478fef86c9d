"""Tells whoever waits at a terminal that the embedded pipeline waits, too, and for what."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from doctor_image_gen.cli.console import errors
from doctor_image_gen.settings import Settings
from shared.contracts.errors import ResourceExhausted

GATEWAY = "services.gateway"
AGAIN_AFTER_S = 60.0


class Waits(logging.Handler):
    """Hears the gateway's warnings, of which one that carries a ResourceExhausted means: it waits for room.

    No event tells of that, since events are noted before they count, and there is no room to note them.

    Args:
        say: writes a line.
        clock: seconds; the same is said again after a minute.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = monotonic) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._clock = clock
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Say what is waited for, unless that was said within the last minute."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        for error in arguments:
            if isinstance(error, ResourceExhausted):
                what, at = str(error), self._clock()
                if at - self._said.get(what, -inf) >= AGAIN_AFTER_S:
                    self._said[what] = at
                    self._say(f"waiting for room: {what} Free some there, and it goes on. Ctrl-C gives it up.")


@contextmanager
def waits_told(settings: Settings) -> Iterator[None]:
    """Say on standard error what the embedded pipeline waits for, as long as this lasts."""
    if not settings.embedded:
        yield
        return
    gateway = logging.getLogger(GATEWAY)
    waits = Waits(errors.print)
    gateway.addHandler(waits)
    try:
        yield
    finally:
        gateway.removeHandler(waits)
