"""Commands as a user types them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """What a command said."""

    status: int
    out: str
    err: str


Type = Callable[..., Said]
