"""Documents of an older schema, brought to the present one before they are read.

Whoever changes a contract so that older documents no longer fit raises its `schema_version` and adds the function
that turns a document of the version before into one of the new: `UPGRADES["StepMessage", 1] = from_1_to_2`. A
document of a newer version than ours is never guessed at.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from shared.contracts.errors import InvalidInput

VERSION: Final = "schema_version"

Document = dict[str, Any]
Upgrade = Callable[[Document], Document]

UPGRADES: dict[tuple[str, int], Upgrade] = {}
"""By contract and the version that the function reads; it gives the next version, all but the version's number."""


@dataclass(frozen=True)
class OtherVersion:
    """A document, or one within it at `path`, that is not of the version which its contract has at present."""

    path: tuple[str | int, ...]
    contract: str
    found: int
    present: int

    @property
    def field(self) -> str:
        """Where the version stands in the whole document."""
        return ".".join(map(str, (*self.path, VERSION)))


def upgraded(document: Any, others: Iterable[OtherVersion]) -> Any:
    """The document with each of these parts as its contract states it at present. Inner ones are upgraded first.

    Raises:
        InvalidInput: a part is of a newer version than ours, or no way leads from its version.
    """
    whole = {"": document}
    outermost_first = sorted(others, key=lambda other: len(other.path))
    for other in outermost_first:
        _check_not_newer(other)
    for other in reversed(outermost_first):
        holder: Any = whole
        *way, place = ("", *other.path)
        for key in way:
            holder = holder[key]
        holder[place] = _upgraded_part(holder[place], other)
    return whole[""]


def _check_not_newer(other: OtherVersion) -> None:
    if other.found > other.present:
        found = f"this is version {other.found}, we read {other.present}"
        raise InvalidInput(other.field, found, "Run a newer worker.")


def _upgraded_part(document: Document, other: OtherVersion) -> Document:
    for version in range(other.found, other.present):
        step = UPGRADES.get((other.contract, version))
        if step is None:
            found = f"this is version {other.found}, we read {other.present}, and no way leads from {version}"
            raise InvalidInput(other.field, found, "Let a worker of its own version work it off.")
        document = step(document)
    return {**document, VERSION: other.present}
