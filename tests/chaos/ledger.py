"""An append-only account of what the processes of a chaos run did, one JSON object a line; it outlives any kill -9.

Every line is one write to a file opened with O_APPEND, so lines of several processes never mix, and what a killed
process had written before stands.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Act = Literal["started", "computed", "died", "ended", "jumped", "again", "struck", "finished", "left"]
"""A computation began, or ended; a process was killed, or ended by itself; a clock jumped; a message was told again;
a fault struck, and was over; a job was seen to have ended;
messages were left when all jobs had ended."""


@dataclass(frozen=True)
class Entry:
    """One line. `at` is in seconds of the machine's monotonic clock, which all processes share and no jump moves."""

    act: Act
    who: str
    pid: int
    at: float
    what: str = ""


class Ledger:
    """The account in a file, which need not exist."""

    def __init__(self, path: Path, who: str) -> None:
        self._path = path
        self._who = who

    def note(self, act: Act, what: str = "", *, pid: int | None = None) -> Entry:
        """Add a line, of this process unless another is named; what was added."""
        entry = Entry(act, self._who, pid or os.getpid(), time.monotonic(), what)
        line = json.dumps(asdict(entry)).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        return entry

    def entries(self) -> Iterator[Entry]:
        """All lines in the order in which they were written."""
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                yield Entry(**json.loads(line))
