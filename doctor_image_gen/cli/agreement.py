"""Asks before something that cannot be taken back, or concerns much."""

import sys

from doctor_image_gen.cli.console import errors
from shared.contracts.errors import InvalidInput


def agreed(question: str, *, yes: bool) -> bool:
    """Whether the user agrees; `yes` stands for an answer given beforehand.

    Raises:
        InvalidInput: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidInput("--yes", f"{question} Nobody is there to answer", "Add --yes.")
    errors.print(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
