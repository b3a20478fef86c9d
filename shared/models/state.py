"""Tells whether files were replaced, without reading them."""

from collections.abc import Iterable
from pathlib import Path

from shared.storage.digest import sha256


def state_of(*places: Path) -> str:
    """Another one once a file there was replaced, added or taken away: sizes, times and places on the disk tell.

    Args:
        places: files, or folders with all that is in them but what is hidden. What is not there is a state, too.
    """
    told = [_told(path) for place in places for path in _files(place)]
    return sha256("\n".join(told).encode())[:16]


def _files(place: Path) -> Iterable[Path]:
    if not place.is_dir():
        return [place]
    found = (
        path for path in place.rglob("*") if not any(part.startswith(".") for part in path.relative_to(place).parts)
    )
    return sorted(path for path in found if path.is_file())


def _told(path: Path) -> str:
    try:
        of = path.stat()
    except OSError:
        return f"{path.as_posix()} is not there"
    return f"{path.as_posix()} {of.st_size} {of.st_mtime_ns} {of.st_ino}"
