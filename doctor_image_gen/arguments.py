"""What the SDK's callers hand in, of whatever Python type: looked at before anything is done with it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.contracts.errors import InvalidInput

PHOTOS = "doctor_image_path"


def path_of(value: object, argument: str, which: str = "") -> Path:
    """A file or folder as `pathlib` has it.

    Args:
        value: what the caller handed in.
        argument: its name.
        which: one of several, in words.

    Raises:
        InvalidInput: it is neither a string nor a path.
    """
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        if isinstance(name, str):
            return Path(name)
    raise InvalidInput(argument, f"found {value!r:.80}{which}", "Give the name of a file as a string or a Path.")


def photos_of(value: object) -> list[Path]:
    """One photo, or several.

    Raises:
        InvalidInput: something else.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | os.PathLike | Mapping):
        return [path_of(photo, PHOTOS, f" as photo {number}") for number, photo in enumerate(value, start=1)]
    return [path_of(value, PHOTOS)]


def scenarios_of(value: object) -> list[str]:
    """The scenarios of a batch.

    Raises:
        InvalidInput: they are no list of names, none, or one is named twice.
    """
    names = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidInput("scenarios", f"found {value!r:.80}", "Give a list of names, as ['consultant'].")
    if not names or len(set(names)) < len(names):
        found = "the list names a scenario twice" if names else "the list is empty"
        raise InvalidInput("scenarios", found, "Name each wanted scenario once.")
    return names


def settings_of(value: object) -> Mapping[str, object]:
    """The settings of a job; none where None stands.

    Raises:
        InvalidInput: they are no mapping, or one's name is no string.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidInput("settings", f"found {value!r:.80}", "Give values by name, as {'seed': 7}.")
    return value
