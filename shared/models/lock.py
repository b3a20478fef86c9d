"""`models.lock.json` in the models folder: what every file was when it was first seen."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.contracts.base import Digest
from shared.contracts.errors import Permanent

LOCK_FILE = "models.lock.json"


class Pin(BaseModel):
    """What a file was when it was first seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Digest
    size: int
    changed_ns: int | None = Field(
        default=None, description="when the file was last changed, in ns since 1970; a pin without it knows no better"
    )

    def fits(self, path: Path) -> bool:
        """Whether a file is as it was by size and time, so that it need not be read through."""
        found = path.stat()
        return self.size == found.st_size and self.changed_ns in {None, found.st_mtime_ns}


Pins = dict[str, dict[str, Pin]]
"""Model name to path below its folder to pin."""

_PINS = TypeAdapter(Pins)


def read_pins(folder: Path) -> Pins:
    """All pins; none where there is no lock file.

    Raises:
        Permanent: the lock file is damaged.
    """
    path = folder / LOCK_FILE
    try:
        return _PINS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise Permanent(
            f"{path} is damaged: {error.errors()[0]['msg']}. Delete it; `doctorgen models verify` makes it anew."
        ) from error


def pin(folder: Path, name: str, files: Mapping[str, Pin]) -> None:
    """Add pins of a model's files, over those of the same files. Safe beside other processes that do the same."""
    _change(folder, name, lambda known: {**known, **files})


def forget(folder: Path, name: str) -> None:
    """Drop a model's pins."""
    _change(folder, name, lambda _: {})


def pin_of(path: Path) -> Pin:
    """Read a file through. Megabytes a second of the disk: 24 GB take a minute on a fast one."""
    with path.open("rb") as file:
        changed_ns = os.fstat(file.fileno()).st_mtime_ns
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Pin(sha256=sha256, size=file.tell(), changed_ns=changed_ns)


def _change(folder: Path, name: str, change: Callable[[dict[str, Pin]], dict[str, Pin]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{LOCK_FILE}").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        pins = read_pins(folder)
        changed = {**pins, name: change(pins.get(name, {}))}
        document = {name: files for name, files in sorted(changed.items()) if files}
        new = folder / f"{LOCK_FILE}.new"
        new.write_text(
            json.dumps(_PINS.dump_python(document, mode="json", exclude_none=True), indent=2, sort_keys=True) + "\n",
            encoding="utf-8",
        )
        new.replace(folder / LOCK_FILE)
