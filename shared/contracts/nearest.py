"""The mend for a name that does not exist: the nearest ones that do."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """One sentence that offers up to three near names, or all of them where none is near."""
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}."
