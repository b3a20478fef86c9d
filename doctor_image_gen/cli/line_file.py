"""Files of lines, `-` for standard input and output. A file is written whole or not at all."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from shared.contracts.errors import InvalidInput

STANDARD: Final = "-"
LINE_LIMIT_BYTES: Final = 1024 * 1024


def write_lines(name: str, lines: Iterable[bytes]) -> int:
    """Write lines, which bring their own ends; how many. The file can be read by its owner alone.

    Raises:
        InvalidInput: it cannot be written.
    """
    if name == STANDARD:
        return _write_to(sys.stdout.buffer, lines)
    path = Path(name)
    part = path.with_name(f".{path.name}.part")
    try:
        try:
            part.touch(mode=0o600)
            with part.open("wb") as file:
                count = _write_to(file, lines)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            "FILE", f"'{name}' cannot be written ({reason})", "Name a file that you may write."
        ) from error
    return count


@contextmanager
def read_lines(name: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file, each at most 1 MiB: of a longer one only its beginning is given.

    Raises:
        InvalidInput: it cannot be read.
    """
    if name == STANDARD:
        yield _lines_of(sys.stdin.buffer)
        return
    try:
        with Path(name).open("rb") as file:
            yield _lines_of(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput("FILE", f"'{name}' cannot be read ({reason})", "Name a file that you may read.") from error


def _write_to(file: BinaryIO, lines: Iterable[bytes]) -> int:
    count = 0
    for count, line in enumerate(lines, start=1):  # noqa: B007 - the last number is wanted
        file.write(line)
    return count


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_LIMIT_BYTES):
        rest = line
        while len(rest) == LINE_LIMIT_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(LINE_LIMIT_BYTES)
        yield line
