"""Which of the steps that wait for one device is computed next, and the turnstile at which they wait."""

import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from time import monotonic


@dataclass(frozen=True)
class Waiting:
    """A step that waits for a worker of several stages; the steps are kept in the order of their arrival."""

    name: str
    models: frozenset[str]
    passed_over: int = 0


def prefer(waiting: Sequence[Waiting], resident: AbstractSet[str], bound: int) -> int:
    """Which waiting step to do next: the first whose models are all there, so that nothing has to be moved.

    A step that younger ones were preferred to `bound` times comes first; where no step's models are there, the oldest
    one does. Told of with `without` each time, no step is passed over more than `bound` times.

    Args:
        waiting: at least one, the oldest first.
        resident: the keys on the device.
        bound: 0 for strictly one after the other.

    Returns:
        The place of the step in `waiting`.
    """
    due = (place for place, step in enumerate(waiting) if step.passed_over >= bound)
    ready = (place for place, step in enumerate(waiting) if step.models <= resident)
    return next(due, next(ready, 0))


def without(waiting: Sequence[Waiting], chosen: int) -> tuple[Waiting, ...]:
    """Those who go on waiting; the ones that are older than the chosen one were passed over once more."""
    older = (replace(step, passed_over=step.passed_over + 1) for step in waiting[:chosen])
    return (*older, *waiting[chosen + 1 :])


@dataclass(frozen=True)
class TurnFigures:
    """What a turnstile has done since the start."""

    turns: int = 0
    preferred: int = 0
    """Turns that went to a step though an older one waited, since its models were on the device."""
    seconds_waiting: float = 0.0


class Turnstile:
    """Lets one step at a time onto the device of a process. Used by the step threads of all its workers.

    A step whose models are on the device goes before older ones, as `prefer` says. A worker has its next step only a
    moment after the last one; so that this moment does not hand the device to a step for which models must be moved,
    such a one has to wait until the device has been idle for `linger_s`.

    Args:
        resident: tells the keys of the models on the device; asked only while a step waits.
        bound: how often younger steps may be preferred to a waiting one.
        linger_s: 0 to hand the device on at once.
        look_every_s: how often a waiting step is asked whether it still waits.
        clock: seconds that only ever rise.
    """

    def __init__(
        self,
        resident: Callable[[], AbstractSet[str]],
        *,
        bound: int = 4,
        linger_s: float = 0.25,
        look_every_s: float = 0.25,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._resident = resident
        self._bound = bound
        self._linger_s = linger_s
        self._look_every_s = look_every_s
        self._clock = clock
        self._tickets = map(str, count())
        self._waiting: tuple[Waiting, ...] = ()
        self._taken = False
        self._idle_since = -inf
        self._figures = TurnFigures()
        self._changed = threading.Condition(threading.Lock())  # guards all that changes above

    def enter(self, models: AbstractSet[str], still_waits: Callable[[], None]) -> None:
        """Wait for the turn; `leave` ends it.

        Args:
            models: the keys of those that the step borrows.
            still_waits: called again and again while it waits; what it raises ends the wait.
        """
        started = self._clock()
        with self._changed:
            ticket = next(self._tickets)
            self._waiting += (Waiting(ticket, frozenset(models)),)
        try:
            while not self._takes(ticket):
                still_waits()
        except BaseException:
            with self._changed:
                self._waiting = tuple(step for step in self._waiting if step.name != ticket)
                self._changed.notify_all()
            raise
        finally:
            with self._changed:
                waited = self._figures.seconds_waiting + self._clock() - started
                self._figures = replace(self._figures, seconds_waiting=waited)

    def leave(self) -> None:
        """End the turn."""
        with self._changed:
            self._taken = False
            self._idle_since = self._clock()
            self._changed.notify_all()

    def figures(self) -> TurnFigures:
        """What was done, at this instant."""
        with self._changed:
            return self._figures

    def _takes(self, ticket: str) -> bool:
        """Take the turn if it is this step's; else wait a little."""
        with self._changed:
            pause_s = self._pause_s(ticket)
            if pause_s > 0:
                self._changed.wait(pause_s)
                pause_s = self._pause_s(ticket)
            if pause_s > 0:
                return False
            chosen = [step.name for step in self._waiting].index(ticket)
            self._waiting = without(self._waiting, chosen)
            self._taken = True
            done = self._figures
            self._figures = replace(done, turns=done.turns + 1, preferred=done.preferred + (chosen > 0))
            self._changed.notify_all()  # the others' time to look again may have changed
            return True

    def _pause_s(self, ticket: str) -> float:
        """How long to wait before looking again; 0 where it is this step's turn."""
        if self._taken:
            return self._look_every_s
        resident = self._resident()
        chosen = self._waiting[prefer(self._waiting, resident, self._bound)]
        if chosen.name != ticket:
            return self._look_every_s
        if not resident or chosen.models <= resident or chosen.passed_over >= self._bound:
            return 0.0
        idle_s = self._clock() - self._idle_since
        return max(0.0, min(self._linger_s - idle_s, self._look_every_s))
