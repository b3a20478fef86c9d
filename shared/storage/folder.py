"""An artifact store in a folder of the local file system: the embedded stack's, and a laptop's."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient
from shared.storage.keys import checked_key, checked_prefix

UNFINISHED = "~unfinished"
"""Where blobs are written before they are committed. No object key holds a tilde, so nobody can name it."""

ABANDONED_AFTER_S = 24 * 3600.0
COMMIT_ATTEMPTS = 20
NO_BLOB = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PASSING = {
    errno.EIO,
    errno.EAGAIN,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


class FolderStore:
    """Blobs as files below `root`, which is made where it is missing.

    A blob is written to a file of its own and then linked to its name, which the file system does at once and only
    where nothing stands. `durable` makes a blob survive a power cut as soon as it is committed (fsync of file and
    folder, about 12 ms for 2 MB and 30 ms for 40 MB on a virtual disk). Without it a power cut can leave an empty file
    under a good name, which nothing would ever write again: leave it on unless the folder is thrown away anyway.

    Raises:
        Permanent, Transient: the folder cannot be made or written.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._durable = durable
        with _our_errors(f"open the store in {root}"):
            self._root = root.expanduser().resolve()
            self._unfinished = self._root / UNFINISHED
            self._unfinished.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()

    def put(self, key: str, data: bytes, media_type: str) -> bool:  # noqa: ARG002 - the key's ending says the type
        path = self._path(key)
        with _our_errors(f"write {key}"):
            if _stands(path):
                return False
            with self._written(data) as finished:
                return self._commit(finished, path, _link)

    def replace(self, key: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - as with put
        path = self._path(key)
        with _our_errors(f"replace {key}"), self._written(data) as finished:
            self._commit(finished, path, _rename)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with _our_errors(f"read {key}"):
            try:
                with open(path, "rb", opener=_open_no_link) as file:
                    return file.read()
            except NO_BLOB:
                return None

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _our_errors(f"delete {key}"):
            try:
                path.unlink()
            except NO_BLOB:
                return
            for folder in path.parents:
                if folder == self._root or not _removed_if_empty(folder):
                    break

    def keys(self, prefix: str) -> Iterator[str]:
        return self._listed(checked_prefix(prefix))

    def committed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        for key in self.keys(prefix):
            with _our_errors(f"look at {key}"), contextlib.suppress(*NO_BLOB):
                yield key, datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)

    def _listed(self, prefix: str) -> Iterator[str]:
        folder, slash, _ = prefix.rpartition("/")
        with _our_errors(f"list {prefix}"):
            yield from self._walk(folder + slash, prefix)

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(self._path(folder + "_").parent) as entries:
                # A folder sorts as its keys do, with the slash: "a-b" comes before "a/b".
                names = sorted(
                    folder + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                    for entry in entries
                    if entry.name != UNFINISHED and not entry.is_symlink()
                )
        except NO_BLOB:
            return
        for name in names:
            if not name.startswith(prefix):
                continue
            if name.endswith("/"):
                yield from self._walk(name, prefix)
            else:
                yield name

    def _path(self, key: str) -> Path:
        path = self._root / checked_key(key)
        if os.path.realpath(path.parent) != str(path.parent):
            raise Permanent(f"{key} lies behind a symbolic link. Remove the link from the store's folder.")
        return path

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        path = self._unfinished / uuid4().hex
        try:
            with path.open("xb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _commit(self, finished: Path, path: Path, how: Callable[[Path, Path], bool]) -> bool:
        for _ in range(COMMIT_ATTEMPTS):
            # Somebody who deletes the last blob of a folder removes the folder, perhaps just now.
            with contextlib.suppress(FileNotFoundError):
                changed = _make_folder(path.parent)
                written = how(finished, path)
                if self._durable and written:
                    for folder in changed:
                        _sync(folder)
                return written
        raise Transient(f"cannot write {path}: its folder is removed as fast as it is made")

    def _remove_abandoned(self) -> None:
        oldest = time.time() - ABANDONED_AFTER_S
        for path in self._unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and what is missing above it; returns it and every folder above that got a new entry."""
    changed = [folder]
    while not changed[-1].is_dir():
        if changed[-1].is_file():
            raise Permanent(f"{changed[-1]} is a blob, so no key can lie below it. Choose another key.")
        changed.append(changed[-1].parent)
    for missing in reversed(changed[:-1]):
        with contextlib.suppress(FileExistsError):
            missing.mkdir()
    return changed


def _stands(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except NO_BLOB:
        return False
    if not stat.S_ISREG(mode):
        raise Permanent(f"{path} is no plain file: another key lies below it, or it is a link. Choose another key.")
    return True


def _link(finished: Path, path: Path) -> bool:
    try:
        path.hardlink_to(finished)
    except FileExistsError:
        return not _stands(path)
    return True


def _rename(finished: Path, path: Path) -> bool:
    finished.rename(path)
    return True


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _sync(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # whoever removed it deleted the blob before
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _removed_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


@contextlib.contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot {doing}: {error.strerror or error}"
        raise _classified(error.errno, reason) from error


def _classified(code: int | None, reason: str) -> DoctorGenError:
    if code in NO_ROOM:
        return ResourceExhausted(f"{reason}. Free some disk space, or move the store to a larger disk.")
    if code in PASSING:
        return Transient(reason)
    return Permanent(f"{reason}. Check the store's folder, its rights and its file system.")
