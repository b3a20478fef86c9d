"""What any artifact store must do. An adapter's own test module subclasses this and provides `store`."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import now
from shared.contracts.errors import IntegrityError, InvalidInput
from shared.storage.artifacts import fetch, store_artifact
from shared.storage.port import ArtifactStore

BINARY = "application/octet-stream"
PNG = "image/png"
WRITERS = 20

LEGAL_KEYS = (
    "a.b",
    "subjects/dr.house/photo/0.png",
    "subjects/-_-/x..y/...",
    "subjects/.hidden/.k",
    ".tmp/x",
    "A/a/A",
    "/".join(["n" * 100] * 5),
)
ILLEGAL_KEYS = (
    "",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    "../a",
    "a/../../b",
    "a/./b",
    ".",
    "..",
    "a b",
    "a\\b",
    "a\0b",
    "a\n",
    "~unfinished/a",
    "%2e%2e/a",
    "ärztin",
    "k" * 513,
)
ILLEGAL_PREFIXES = ("/", "/etc", "a//", "../", "a/../b", "./", "a b", "*", "p" * 513)


class StorageContract:
    """Each test gets a store of its own, empty."""

    @pytest.fixture
    def store(self) -> ArtifactStore:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 8 * 1024 * 1024])
    def test_what_was_put_is_what_is_got(self, store: ArtifactStore, size: int) -> None:
        data = secrets.token_bytes(size)
        assert store.put("subjects/a/result/x.bin", data, BINARY) is True
        assert store.get("subjects/a/result/x.bin") == data

    def test_what_is_missing_is_none(self, store: ArtifactStore) -> None:
        store.put("a/b", b"x", BINARY)
        assert store.get("a/missing") is None
        assert store.get("nowhere/at/all") is None
        assert store.get("a/b/c") is None
        assert store.get("a") is None

    def test_what_stands_is_never_written_again(self, store: ArtifactStore) -> None:
        assert store.put("a/b", b"first", BINARY) is True
        assert store.put("a/b", b"second, and longer", BINARY) is False
        assert store.get("a/b") == b"first"

    def test_replace_takes_the_place_of_what_stands_and_needs_nothing_to_stand(self, store: ArtifactStore) -> None:
        store.put("a/b", b"first", BINARY)
        store.replace("a/b", b"second", BINARY)
        store.replace("a/new", b"new", BINARY)
        assert (store.get("a/b"), store.get("a/new")) == (b"second", b"new")

    def test_a_key_is_listed_with_the_instant_at_which_its_blob_was_committed(self, store: ArtifactStore) -> None:
        """To the second at least, by the store's own clock; what stands is not made younger by another `put`."""
        before = now()
        store.put("a/b", b"first", BINARY)
        store.put("a/c", b"other", BINARY)
        store.put("b/a", b"elsewhere", BINARY)
        (first, at), (second, _) = store.committed("a/")
        assert (first, second) == ("a/b", "a/c")
        assert abs(at - before) < timedelta(minutes=1)
        store.put("a/b", b"again", BINARY)
        assert next(store.committed("a/b")) == ("a/b", at)

    def test_a_deleted_blob_is_gone_and_may_be_put_again(self, store: ArtifactStore) -> None:
        store.put("a/b/c", b"first", BINARY)
        store.delete("a/b/c")
        assert store.get("a/b/c") is None
        assert list(store.keys("")) == []
        assert store.put("a/b/c", b"second", BINARY) is True

    def test_deleting_what_is_not_there_is_harmless(self, store: ArtifactStore) -> None:
        store.put("a/b", b"x", BINARY)
        store.delete("a/c")
        store.delete("a/b/c")
        store.delete("never/was")
        assert list(store.keys("")) == ["a/b"]

    def test_of_twenty_writers_of_one_key_exactly_one_is_told_that_it_wrote(self, store: ArtifactStore) -> None:
        for attempt in range(5):
            key = f"race/{attempt}"
            together = threading.Barrier(WRITERS)

            def write(number: int, key: str = key, together: threading.Barrier = together) -> bool:
                together.wait(10)
                return store.put(key, bytes([number]) * 100_000, BINARY)

            with ThreadPoolExecutor(WRITERS) as pool:
                written = list(pool.map(write, range(WRITERS)))
            assert written.count(True) == 1
            assert store.get(key) == bytes([written.index(True)]) * 100_000

    def test_a_reader_sees_a_whole_blob_or_none(self, store: ArtifactStore) -> None:
        blobs = {f"atomic/{number}": secrets.token_bytes(300_000) for number in range(16)}
        done = threading.Event()
        seen: list[bool] = []

        def read() -> None:
            while not done.is_set():
                for key, blob in blobs.items():
                    found = store.get(key)
                    seen.append(found is not None)
                    assert found in {None, blob}

        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            written = list(pool.map(lambda key: store.put(key, blobs[key], BINARY), blobs))
            done.set()
            for reader in readers:
                reader.result(30)
        assert all(written)
        assert True in seen

    def test_a_reader_sees_a_whole_blob_while_it_is_replaced(self, store: ArtifactStore) -> None:
        versions = [bytes([number]) * 200_000 for number in range(12)]
        store.put("a/b", versions[0], BINARY)

        def write() -> None:
            for version in versions[1:]:
                store.replace("a/b", version, BINARY)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not writing.done():
                assert store.get("a/b") in versions
            writing.result()
        assert store.get("a/b") == versions[-1]

    def test_blobs_come_and_go_in_one_folder_without_trouble(self, store: ArtifactStore) -> None:
        def come_and_go(number: int) -> bool:
            key = f"busy/folder/{number}"
            put = store.put(key, b"x", BINARY)
            got = store.get(key)
            store.delete(key)
            return put and got == b"x" and store.get(key) is None

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(come_and_go, range(200)))
        assert list(store.keys("")) == []

    def test_keys_are_those_that_begin_with_the_prefix_in_lexical_order(self, store: ArtifactStore) -> None:
        keys = ["a-b", "a.b/c", "a/b-c", "a/b.c/d", "a/b/c", "a/b0", "aa", "b/a", "B/a"]
        for key in reversed(keys):
            store.put(key, b"x", BINARY)
        for prefix in ("", "a", "a/", "a/b", "a/b/", "a/b/c", "a-", "b", "c", "a/c", "a/b/c/d", "aa"):
            assert list(store.keys(prefix)) == sorted(key for key in keys if key.startswith(prefix)), prefix

    def test_more_keys_than_a_page_holds_are_all_listed(self, store: ArtifactStore) -> None:
        keys = [f"many/{number * 7919 % 1100:04d}" for number in range(1100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"", BINARY), keys))
        assert list(store.keys("many/")) == sorted(keys)

    def test_every_legal_key_can_be_put_got_listed_and_deleted(self, store: ArtifactStore) -> None:
        for key in LEGAL_KEYS:
            assert store.put(key, key.encode(), BINARY) is True
        assert list(store.keys("")) == sorted(LEGAL_KEYS)
        for key in LEGAL_KEYS:
            assert store.get(key) == key.encode()
            store.delete(key)
        assert list(store.keys("")) == []

    @pytest.mark.parametrize("key", ILLEGAL_KEYS)
    def test_an_illegal_key_is_refused_by_every_method(self, store: ArtifactStore, key: str) -> None:
        for attempt in (
            lambda: store.put(key, b"x", BINARY),
            lambda: store.replace(key, b"x", BINARY),
            lambda: store.get(key),
            lambda: store.delete(key),
        ):
            with pytest.raises(InvalidInput, match="is no object key"):
                attempt()
        assert list(store.keys("")) == []

    @pytest.mark.parametrize("prefix", ILLEGAL_PREFIXES)
    def test_an_illegal_prefix_is_refused_at_once(self, store: ArtifactStore, prefix: str) -> None:
        with pytest.raises(InvalidInput, match="begins no object key"):
            store.keys(prefix)

    def test_an_artifact_is_fetched_by_its_reference(self, store: ArtifactStore) -> None:
        ref = store_artifact(store, "dr-a", "result", b"pixels", PNG)
        assert store_artifact(store, "dr-a", "result", b"pixels", PNG) == ref
        assert list(store.keys("")) == [ref.key]
        assert fetch(store, ref) == b"pixels"

    def test_a_corrupt_artifact_is_never_handed_out(self, store: ArtifactStore) -> None:
        ref = store_artifact(store, "dr-a", "result", b"pixels", PNG)
        store.replace(ref.key, b"pixelz", PNG)
        with pytest.raises(IntegrityError, match=f"{ref.key} is corrupt"):
            fetch(store, ref)

    def test_a_missing_artifact_is_an_integrity_error(self, store: ArtifactStore) -> None:
        ref = ArtifactRef(key="subjects/a/result/gone.png", sha256="0" * 64, size=1, media_type=PNG)
        with pytest.raises(IntegrityError, match=r"gone\.png is missing"):
            fetch(store, ref)
