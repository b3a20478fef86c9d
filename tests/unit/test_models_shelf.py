"""The models folder: what is there, what is pinned, what is damaged, and how downloads mend it."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from shared.contracts.errors import IntegrityError, InvalidInput, Permanent, ResourceExhausted, Transient
from shared.models.catalogue import Model, ModelFile, parse
from shared.models.download import RESERVE_BYTES, check_room, check_sources, download
from shared.models.facts import licences
from shared.models.lock import LOCK_FILE, Pin, pin, read_pins
from shared.models.prepare import convert
from shared.models.shelf import Shelf

WEIGHTS = b"0123456789"
ZIPPED = ("a.onnx", "b.onnx")
CATALOGUE = parse(
    f"""
    plain:
      {{title: Plain, role: r, hub: a/b, format: safetensors, licence: MIT, commercial: true, memory_bytes: 10,
      files: [{{path: w.safetensors, bytes: 10}}]}}
    known:
      {{title: Known, role: r, hub: a/b, format: onnx, licence: MIT, commercial: true, memory_bytes: 10,
      files: [{{path: w.onnx, bytes: 10, sha256: {sha256(WEIGHTS).hexdigest()}}}]}}
    rounded:
      {{title: Rounded, role: r, hub: a/b, format: onnx, licence: MIT, commercial: true, memory_bytes: 10,
      files: [{{path: w.onnx, bytes: 1000, approximate: true}}]}}
    folder:
      {{title: Folder, role: r, hub: a/b, format: diffusers, licence: MIT, commercial: true, memory_bytes: 10,
      files: [{{path: model_index.json, bytes: 2, approximate: true}},
      {{path: vae/*, bytes: 200000000, approximate: true}}]}}
    zipped:
      {{title: Zipped, role: r, format: zip, licence: Other, commercial: false, memory_bytes: 10,
      gives: [a.onnx, b.onnx], files: [{{path: z.zip, url: "https://example.org/z.zip", bytes: 1000,
      approximate: true}}]}}
    detector:
      {{title: Detector, role: r, hub: a/b, format: pickle, licence: MIT, commercial: true, memory_bytes: 10,
      files: [{{path: d.pt, bytes: 10}}]}}
    private:
      {{title: Private, role: r, by_hand: Ask its author., format: onnx, licence: MIT, commercial: true,
      memory_bytes: 10, files: [{{path: p.onnx, bytes: 10}}]}}
    """
)
PLAIN, KNOWN, ZIPPED_MODEL = CATALOGUE["plain"], CATALOGUE["known"], CATALOGUE["zipped"]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models")


class Source:
    """Gives each model's files these bytes, and remembers what it was asked for."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = list(contents)
        self.asked: list[str] = []

    def __call__(self, model: Model, file: ModelFile, folder: Path) -> None:
        self.asked.append(file.path)
        if not self._contents:
            raise Transient("the line is dead")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(self._contents.pop(0))


def put(shelf: Shelf, model: Model, file: str, data: bytes = WEIGHTS) -> Path:
    path = shelf.path(model, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_archive(shelf: Shelf, *members: str) -> Path:
    path = put(shelf, ZIPPED_MODEL, "z.zip", b"")
    with ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, member.encode() * 200)
    return path


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_a_download_pins_what_came_and_is_not_repeated(shelf: Shelf) -> None:
    source = Source(WEIGHTS)
    assert download(shelf, PLAIN, source).state == "ready"
    (pinned,) = read_pins(shelf.folder)["plain"].values()
    assert (pinned.sha256, pinned.size) == (digest(WEIGHTS), 10)
    assert download(shelf, PLAIN, source).state == "ready"
    assert source.asked == ["w.safetensors"]
    assert shelf.require(PLAIN) == {"w.safetensors": shelf.path(PLAIN, "w.safetensors")}


def test_a_file_put_there_by_hand_is_pinned_when_it_is_first_verified(shelf: Shelf) -> None:
    put(shelf, PLAIN, "w.safetensors")
    assert shelf.verify(PLAIN).state == "ready"
    assert read_pins(shelf.folder)["plain"]["w.safetensors"].sha256 == digest(WEIGHTS)


def test_a_missing_file_is_named_with_the_command_that_brings_it(shelf: Shelf) -> None:
    path = shelf.path(PLAIN, "w.safetensors")
    with pytest.raises(Permanent) as missing:
        shelf.require(PLAIN)
    assert str(missing.value) == f"Plain: {path} is missing. `doctorgen models download plain` brings it."


def test_a_truncated_file_is_noticed_by_its_size_alone(shelf: Shelf) -> None:
    put(shelf, PLAIN, "w.safetensors", WEIGHTS[:4])
    with pytest.raises(IntegrityError, match="is truncated: expected 10 bytes, found 4 bytes"):
        shelf.require(PLAIN)


def test_verifying_names_file_both_digests_and_the_mend(shelf: Shelf) -> None:
    download(shelf, PLAIN, Source(WEIGHTS))
    path = put(shelf, PLAIN, "w.safetensors", WEIGHTS[::-1])
    assert shelf.standing(PLAIN).state == "ready", "a wrong byte does not show in the size"
    (finding,) = shelf.verify(PLAIN).findings
    assert str(finding) == (
        f"{path} is wrong: expected SHA-256 {digest(WEIGHTS)}, found 10 bytes, SHA-256 {digest(WEIGHTS[::-1])}. "
        "`doctorgen models download plain` mends it."
    )
    put(shelf, PLAIN, "w.safetensors", WEIGHTS[:4])
    (finding,) = shelf.verify(PLAIN).findings
    assert finding.state == "truncated"
    assert digest(WEIGHTS) in finding.expected
    assert digest(WEIGHTS[:4]) in finding.found


def test_the_mend_mends(shelf: Shelf) -> None:
    put(shelf, KNOWN, "w.onnx", WEIGHTS[::-1])
    assert shelf.verify(KNOWN).state == "wrong", "the catalogue knows better, though it is seen for the first time"
    assert read_pins(shelf.folder) == {}
    assert download(shelf, KNOWN, Source(WEIGHTS)).state == "ready"


def test_a_source_that_sends_other_bytes_than_before_is_refused_unless_they_are_accepted(shelf: Shelf) -> None:
    download(shelf, PLAIN, Source(WEIGHTS))
    shelf.path(PLAIN, "w.safetensors").unlink()
    other = WEIGHTS[::-1]
    with pytest.raises(IntegrityError, match="--repin") as refused:
        download(shelf, PLAIN, Source(other))
    assert digest(WEIGHTS) in str(refused.value)
    assert digest(other) in str(refused.value)
    assert download(shelf, PLAIN, Source(), repin=True).state == "ready"
    assert read_pins(shelf.folder)["plain"]["w.safetensors"].sha256 == digest(other)


def test_a_published_digest_cannot_be_repinned(shelf: Shelf) -> None:
    with pytest.raises(IntegrityError, match=digest(WEIGHTS)):
        download(shelf, KNOWN, Source(WEIGHTS[::-1]), repin=True)


def test_a_broken_connection_leaves_what_there_was(shelf: Shelf) -> None:
    with pytest.raises(Transient):
        download(shelf, PLAIN, Source())
    assert shelf.standing(PLAIN).state == "missing"


def test_a_rounded_size_is_held_against_a_file_only_until_it_is_pinned(shelf: Shelf) -> None:
    model = CATALOGUE["rounded"]
    put(shelf, model, "w.onnx", bytes(945))
    assert shelf.verify(model).state == "ready"
    put(shelf, model, "w.onnx", bytes(940))
    assert shelf.standing(model).state == "truncated", "from then on the pinned size counts"


def test_a_folder_is_pinned_file_by_file(shelf: Shelf) -> None:
    model = CATALOGUE["folder"]
    put(shelf, model, "model_index.json", b"{}")
    assert [finding.path.name for finding in shelf.standing(model).findings] == ["vae"]
    put(shelf, model, "vae/config.json", b"{}")
    assert shelf.verify(model).state == "truncated"
    assert list(read_pins(shelf.folder)["folder"]) == ["model_index.json"], "what is unfinished is not pinned"
    pin(shelf.folder, "folder", {"vae/config.json": Pin(sha256=digest(b"{}"), size=2)})
    assert shelf.verify(model).state == "ready"
    shelf.path(model, "vae/config.json").unlink()
    assert shelf.standing(model).state == "missing"


def test_an_unfinished_folder_keeps_its_finished_files(shelf: Shelf) -> None:
    model = CATALOGUE["folder"]
    put(shelf, model, "model_index.json", b"{}")
    shard = put(shelf, model, "vae/1-of-2.safetensors", bytes(1000))
    source = Source()
    with pytest.raises(Transient):
        download(shelf, model, source)
    assert source.asked == ["vae/*"], "the library asks itself which files of a folder it lacks"
    assert shard.is_file()


def test_a_converted_model_is_ready_without_what_it_was_made_from(shelf: Shelf) -> None:
    archive = put_archive(shelf, "zipped/a.onnx", "zipped/deep/b.onnx", "zipped/readme.txt")
    assert shelf.standing(ZIPPED_MODEL).state == "to convert"
    with pytest.raises(Permanent, match="doctorgen models convert zipped"):
        shelf.require(ZIPPED_MODEL)
    assert convert(shelf, ZIPPED_MODEL) == ZIPPED
    assert sorted(path.name for path in archive.parent.iterdir()) == ["a.onnx", "b.onnx", "z.zip"], "flat, no more"
    archive.unlink()
    assert shelf.standing(ZIPPED_MODEL).state == "ready"
    assert list(shelf.require(ZIPPED_MODEL)) == list(ZIPPED)
    assert convert(shelf, ZIPPED_MODEL) == (), "once"


def test_an_archive_without_a_folder_of_its_own_serves_as_well(shelf: Shelf) -> None:
    put_archive(shelf, *ZIPPED)
    assert convert(shelf, ZIPPED_MODEL) == ZIPPED


def test_an_archive_cannot_write_elsewhere(shelf: Shelf) -> None:
    put_archive(shelf, "../../a.onnx", "/etc/b.onnx")
    convert(shelf, ZIPPED_MODEL)
    assert sorted(path.name for path in shelf.folder.parent.rglob("*.onnx")) == ["a.onnx", "b.onnx"]
    assert shelf.path(ZIPPED_MODEL, "a.onnx").is_file()


def test_a_converted_file_that_is_damaged_is_converted_again(shelf: Shelf) -> None:
    put_archive(shelf, *ZIPPED)
    convert(shelf, ZIPPED_MODEL)
    put(shelf, ZIPPED_MODEL, "a.onnx", b"x")
    (finding,) = shelf.standing(ZIPPED_MODEL).findings
    assert finding.mend == "doctorgen models convert zipped"
    assert convert(shelf, ZIPPED_MODEL) == ZIPPED
    assert shelf.verify(ZIPPED_MODEL).state == "ready"


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (lambda shelf: None, Permanent, "z.zip is missing. `doctorgen models download zipped` brings it"),
        (lambda shelf: put_archive(shelf, "a.onnx"), Permanent, "has 0 files called b.onnx"),
        (lambda shelf: put_archive(shelf, "a.onnx", "x/a.onnx", "b.onnx"), Permanent, "has 2 files called a.onnx"),
        (lambda shelf: put(shelf, ZIPPED_MODEL, "z.zip", bytes(1000)), IntegrityError, "is damaged"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_told(
    shelf: Shelf, prepare: Callable[[Shelf], object], error: type[Exception], words: str
) -> None:
    prepare(shelf)
    with pytest.raises(error, match=words):
        convert(shelf, ZIPPED_MODEL)


def test_what_needs_or_has_no_conversion_says_so(shelf: Shelf) -> None:
    with pytest.raises(InvalidInput, match="it needs no conversion"):
        convert(shelf, PLAIN)
    with pytest.raises(InvalidInput, match="cannot be converted"):
        convert(shelf, CATALOGUE["detector"])


def test_a_pickle_without_a_conversion_is_never_handed_to_an_engine(shelf: Shelf) -> None:
    detector = CATALOGUE["detector"]
    put(shelf, detector, "d.pt")
    assert shelf.verify(detector).state == "ready", "it is there and pinned"
    with pytest.raises(Permanent, match="pickles are not loaded"):
        shelf.require(detector)


def test_room_is_asked_for_before_anything_is_fetched_and_both_numbers_are_named(shelf: Shelf) -> None:
    big = CATALOGUE["folder"]
    with pytest.raises(
        ResourceExhausted, match=r"needs 0\.2 GB and 1\.0 GB in reserve; the disk of .* has 0\.5 GB free"
    ):
        check_room(shelf, [big], lambda _: 500_000_000)
    check_room(shelf, [big], lambda _: RESERVE_BYTES + big.size)


def test_what_is_there_needs_no_room_nor_does_the_fetched_part_of_an_unfinished_download(shelf: Shelf) -> None:
    put(shelf, PLAIN, "w.safetensors")
    check_room(shelf, [PLAIN], lambda _: 0)
    put(shelf, KNOWN, ".w.onnx.part", WEIGHTS[:6])
    check_room(shelf, [KNOWN], lambda _: RESERVE_BYTES + 4)


def test_what_no_program_may_fetch_is_explained(shelf: Shelf) -> None:
    with pytest.raises(InvalidInput, match=r"Ask its author\. .*models where private.*models verify private"):
        check_sources([PLAIN, CATALOGUE["private"]])


def test_a_model_s_digest_is_known_without_reading_a_weight(shelf: Shelf) -> None:
    download(shelf, PLAIN, Source(WEIGHTS))
    put_archive(shelf, *ZIPPED)
    convert(shelf, ZIPPED_MODEL)
    assert shelf.digest(PLAIN) == digest(WEIGHTS)
    listed = "".join(f"{digest(name.encode() * 200)}  {name}\n" for name in ZIPPED)
    assert shelf.digest(ZIPPED_MODEL) == digest(listed.encode())


def test_a_model_that_was_never_pinned_has_no_digest(shelf: Shelf) -> None:
    put(shelf, PLAIN, "w.safetensors")
    with pytest.raises(Permanent, match="`doctorgen models verify plain`"):
        shelf.digest(PLAIN)


def test_a_folder_of_ones_own_has_a_digest_by_the_same_rule(shelf: Shelf) -> None:
    """Of what is pinned nothing is read; hidden files are a downloader's."""
    own = shelf.folder / "own"
    assert shelf.own_digest("own") is None
    (own / "parts").mkdir(parents=True)
    (own / "a.safetensors").write_bytes(b"weights")
    one = digest(b"weights")
    assert shelf.own_digest("own") == one
    (own / "parts" / "b.json").write_bytes(b"{}")
    (own / ".cache").write_bytes(b"x")
    both = f"{one}  a.safetensors\n{digest(b'{}')}  parts/b.json\n".encode()
    assert shelf.own_digest("own") == digest(both)
    pin(shelf.folder, "own", {"a.safetensors": Pin(sha256="a" * 64, size=7)})
    assert shelf.own_digest("own") == digest(both.replace(one.encode(), b"a" * 64))


def test_each_model_is_told_with_its_licence() -> None:
    assert licences(["plain", "zipped/a.onnx", "own"], CATALOGUE) == {
        "plain": "MIT",
        "zipped/a.onnx": "Other",
        "own": "not in the catalogue",
    }


def test_a_damaged_lock_file_is_named_with_its_mend(shelf: Shelf) -> None:
    pin(shelf.folder, "plain", {"w": Pin(sha256="0" * 64, size=1)})
    lock = shelf.folder / LOCK_FILE
    assert json.loads(lock.read_text()) == {"plain": {"w": {"sha256": "0" * 64, "size": 1}}}
    lock.write_text("{")
    with pytest.raises(Permanent, match=r"models\.lock\.json is damaged.*doctorgen models verify"):
        shelf.standing(PLAIN)


def test_a_file_that_was_changed_in_place_is_not_loaded(shelf: Shelf) -> None:
    """Its size tells nothing; file, both digests and the command that mends it are named."""
    download(shelf, PLAIN, Source(WEIGHTS))
    path = shelf.path(PLAIN, "w.safetensors")
    path.write_bytes(WEIGHTS[::-1])
    os.utime(path, ns=(0, 1))
    with pytest.raises(IntegrityError) as refused:
        shelf.require(PLAIN)
    for told in (str(path), digest(WEIGHTS), digest(WEIGHTS[::-1]), "`doctorgen models download plain`"):
        assert told in str(refused.value)


def test_a_file_that_was_only_touched_is_read_through_once(shelf: Shelf) -> None:
    download(shelf, PLAIN, Source(WEIGHTS))
    path = shelf.path(PLAIN, "w.safetensors")
    os.utime(path, ns=(0, 1))
    assert shelf.require(PLAIN) == {"w.safetensors": path}
    assert read_pins(shelf.folder)["plain"]["w.safetensors"] == Pin(sha256=digest(WEIGHTS), size=10, changed_ns=1)


def test_a_pin_of_before_times_were_noted_is_trusted_by_size(shelf: Shelf) -> None:
    download(shelf, PLAIN, Source(WEIGHTS))
    pin(shelf.folder, "plain", {"w.safetensors": Pin(sha256="a" * 64, size=10)})
    assert shelf.digest(PLAIN) == "a" * 64
