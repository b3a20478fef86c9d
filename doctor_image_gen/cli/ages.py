"""Says how long ago something was, as people do."""

from datetime import datetime

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def age(since: datetime, at: datetime) -> str:
    """The time between in its largest unit, rounded down: `3 d`, `5 min`, `0 s`; never negative."""
    seconds = max(0, int((at - since).total_seconds()))
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= size or size == 1)
    return f"{seconds // size} {unit}"
