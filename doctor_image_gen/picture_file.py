"""Where a finished picture is put: the caller's file, whole or not at all."""

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
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a plain file"
        raise InvalidInput("output_path", f"'{path}' is {kind}", "Name the file that the picture is written to.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(path)
        part.touch()
        part.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a picture, whole or not at all: nobody ever sees a half of it.

    Raises:
        InvalidInput: it cannot be put there.
    """
    part = _part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            part.replace(path.resolve())
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _part_of(path: Path) -> Path:
    whole = path.resolve()
    return whole.with_name(f".{whole.name}.part")


def _unwritable(path: Path, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInput("output_path", f"'{path}' cannot be written ({reason})", "Name a file that you may write.")
