"""Lets one process at a time run the embedded pipeline on a data folder."""

import fcntl
import os
from pathlib import Path
from typing import Self

from shared.contracts.errors import InvalidInput

LOCK_FILE = "pipeline.lock"


class PipelineLock:
    """Held from `take` to `close`, or to the end of the process, however it ends: the kernel sees to that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, data_dir: Path) -> Self:
        """Take the lock of a data folder, which is made where it is missing.

        Raises:
            InvalidInput: somebody else holds it, or the folder cannot be written: names folder, process and mend.
        """
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidInput(
                "data_dir", f"'{data_dir}' cannot be used: {error.strerror}", "Name a folder that may be written."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise _taken(data_dir, holder) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def close(self) -> None:
        """Let the next one have it."""
        os.close(self._descriptor)


def _taken(data_dir: Path, holder: str) -> InvalidInput:
    if holder == str(os.getpid()):
        return InvalidInput(
            "data_dir",
            f"this process runs the pipeline on '{data_dir}' already",
            "Close it first, open it with the very same settings, or name another data_dir.",
        )
    return InvalidInput(
        "data_dir",
        f"process {holder or 'unknown'} runs the pipeline on '{data_dir}'",
        "Wait until it has ended, or name another folder with DOCTORGEN_DATA_DIR.",
    )
