"""Where a finished picture is put: the caller's file, whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.contracts.errors import InvalidInput

OTHER_TYPES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


def make_room(path: Path) -> None:
    """Make the folder of a picture that is yet to come, and see whether the picture can be put there.

    Raises:
        InvalidInput: it cannot; better told before the work than after it.
    """
    if path.suffix.lower() in OTHER_TYPES:
        raise InvalidInput("output_path", f"'{path.name}' does not end in .png, but the picture is a PNG", "Rename it.")
    with _part_of(path) as part:
        kind = None if path.is_file() or not path.exists() else "a folder" if path.is_dir() else "not a plain file"
        if kind is None:
            part.touch()
    if kind is not None:
        raise InvalidInput("output_path", f"'{path}' is {kind}", "Name the file that the picture is written to.")


def write_whole(path: Path, data: bytes) -> None:
    """Write a picture, whole or not at all: nobody ever sees a half of it.

    Raises:
        InvalidInput: it cannot be put there.
    """
    with _part_of(path) as part:
        part.write_bytes(data)
        part.replace(path.resolve())


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A name beside the picture's, of which nothing is left in the end."""
    try:
        whole = path.resolve()
        whole.parent.mkdir(parents=True, exist_ok=True)
        part = whole.with_name(f".{whole.name}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        mend = "Name a file that you may write."
        raise InvalidInput("output_path", f"'{path}' cannot be written ({reason})", mend) from error
