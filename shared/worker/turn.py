"""Which of the steps that wait for one device is computed next."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace


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
