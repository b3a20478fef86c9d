"""The artifact store in a folder keeps the contract, and what only a folder promises."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.contracts.errors import Permanent, ResourceExhausted
from shared.storage.folder import ABANDONED_AFTER_S, UNFINISHED, FolderStore
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.storage.settings import StorageSettings
from tests.contract.storage_contract import BINARY, StorageContract


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on demand"


class TestDurableFolder(StorageContract):
    @pytest.fixture
    def store(self, root: Path) -> ArtifactStore:
        return FolderStore(root)


class TestFastFolder(StorageContract):
    @pytest.fixture
    def store(self, root: Path) -> ArtifactStore:
        return FolderStore(root, durable=False)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_second_put_leaves_the_file_untouched(root: Path) -> None:
    store = FolderStore(root)
    store.put("a/b", b"first", BINARY)
    before = (root / "a/b").stat()
    store.put("a/b", b"second", BINARY)
    after = (root / "a/b").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)


def test_nothing_but_the_blobs_is_left_behind(root: Path) -> None:
    store = FolderStore(root)
    store.put("a/b/c", b"x", BINARY)
    store.put("a/b/c", b"y", BINARY)
    store.replace("a/b/c", b"z", BINARY)
    assert files(root) == ["a", "a/b", "a/b/c", UNFINISHED]


def test_folders_left_empty_are_removed(root: Path) -> None:
    store = FolderStore(root)
    store.put("a/b/c/d", b"x", BINARY)
    store.put("a/e", b"x", BINARY)
    store.delete("a/b/c/d")
    assert files(root) == ["a", "a/e", UNFINISHED]
    store.delete("a/e")
    assert files(root) == [UNFINISHED]


def test_what_a_killed_writer_left_is_invisible_and_removed_a_day_later(root: Path) -> None:
    store = FolderStore(root)
    old, young = root / UNFINISHED / "old", root / UNFINISHED / "young"
    for path in (old, young):
        path.write_bytes(b"half a bl")
    long_ago = time.time() - ABANDONED_AFTER_S - 60
    os.utime(old, (long_ago, long_ago))
    assert list(store.keys("")) == []

    FolderStore(root)
    assert files(root / UNFINISHED) == ["young"]


def test_a_linked_folder_leads_nowhere(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = FolderStore(root)
    (root / "subjects").symlink_to(outside)
    for attempt in (
        lambda: store.get("subjects/secret"),
        lambda: store.put("subjects/new", b"x", BINARY),
        lambda: store.replace("subjects/secret", b"x", BINARY),
        lambda: store.delete("subjects/secret"),
        lambda: list(store.keys("subjects/")),
    ):
        with pytest.raises(Permanent, match="symbolic link"):
            attempt()
    assert list(store.keys("")) == []
    assert files(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_linked_file_is_not_read_and_not_listed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    store = FolderStore(root)
    (root / "blob").symlink_to(outside)
    with pytest.raises(Permanent, match="cannot read blob"):
        store.get("blob")
    with pytest.raises(Permanent, match="is no plain file"):
        store.put("blob", b"x", BINARY)
    assert list(store.keys("")) == []
    assert outside.read_bytes() == b"secret"


def test_a_key_below_a_blob_or_above_one_is_refused_with_the_reason(root: Path) -> None:
    store = FolderStore(root)
    store.put("a/b", b"x", BINARY)
    with pytest.raises(Permanent, match="is a blob, so no key can lie below it"):
        store.put("a/b/c/d", b"x", BINARY)
    with pytest.raises(Permanent, match="is no plain file: another key lies below it"):
        store.put("a", b"x", BINARY)
    with pytest.raises(Permanent):
        store.replace("a", b"x", BINARY)
    assert files(root) == ["a", "a/b", UNFINISHED]


def test_a_folder_that_cannot_be_made_is_permanent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Permanent, match="cannot open the store in"):
        FolderStore(tmp_path / "file" / "store")


def test_a_name_too_long_for_the_file_system_is_permanent(root: Path) -> None:
    with pytest.raises(Permanent, match="File name too long"):
        FolderStore(root).put("n" * 300, b"x", BINARY)


@pytest.fixture
def room_for_64_kib() -> Iterator[None]:
    """The system refuses longer files to this process, as a full disk refuses them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("room_for_64_kib")
def test_no_room_is_told_as_such_and_leaves_nothing(root: Path) -> None:
    store = FolderStore(root)
    with pytest.raises(ResourceExhausted, match=r"cannot write a/b: File too large\. Free some disk space"):
        store.put("a/b", bytes(2**20), BINARY)
    assert files(root) == [UNFINISHED]
    assert store.put("a/small", b"x", BINARY) is True


def test_paths_and_urls_open_the_same_folder(root: Path) -> None:
    open_store(StorageSettings(url=str(root))).put("a", b"x", BINARY)
    assert open_store(StorageSettings(url=root.as_uri(), durable=False)).get("a") == b"x"
