"""Where a finished picture is put: whole or not at all, and nowhere else."""

from pathlib import Path

import pytest

from doctor_image_gen.picture_file import make_room, write_whole
from shared.contracts.errors import InvalidInput


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_picture_is_written_and_its_folder_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "me.png", b"picture")
    assert (tmp_path / "a" / "b" / "me.png").read_bytes() == b"picture"
    assert names(tmp_path) == ["a", "a/b", "a/b/me.png"]


def test_an_older_picture_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(b"a longer, older picture")
    make_room(tmp_path / "me.png")
    assert (tmp_path / "me.png").read_bytes() == b"a longer, older picture", "nothing happens before the work"
    write_whole(tmp_path / "me.png", b"picture")
    assert (tmp_path / "me.png").read_bytes() == b"picture"
    assert names(tmp_path) == ["me.png"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "me.png").write_bytes(b"old")
    (tmp_path / "me.png").symlink_to(tmp_path / "there" / "me.png")
    write_whole(tmp_path / "me.png", b"picture")
    assert (tmp_path / "me.png").is_symlink()
    assert (tmp_path / "there" / "me.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["me.png", "me.PNG", "me", "me.tmp", "dr.house"])
def test_room_is_made_without_leaving_a_file(tmp_path: Path, name: str) -> None:
    make_room(tmp_path / "new" / name)
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("name", ["me.jpg", "me.JPEG", "me.webp", "me.tif"])
def test_another_type_s_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_room(tmp_path / "new" / name)
    assert str(refused.value) == (f"output_path: '{name}' does not end in .png, but the picture is a PNG. Rename it.")
    assert names(tmp_path) == []


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^output_path: '.*' is a folder\. Name the file that"):
        make_room(tmp_path)


def test_a_device_is_refused_and_left_as_it_is() -> None:
    with pytest.raises(InvalidInput, match=r"^output_path: '/dev/null' is not a plain file\. Name the file that"):
        make_room(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["file/me.png", "file/more/me.png", "a\0b.png", f"{'x' * 300}.png"])
def test_a_path_that_cannot_be_is_refused_before_and_after_the_work(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"here before")
    with pytest.raises(InvalidInput, match=r"^output_path: '.*' cannot be written \(.+\)\. Name a file that you may"):
        make_room(tmp_path / path)
    with pytest.raises(InvalidInput, match=r"^output_path: '.*' cannot be written \(.+\)\. Name a file that you may"):
        write_whole(tmp_path / path, b"picture")
    assert names(tmp_path) == ["file"]


def test_a_picture_that_cannot_be_put_in_place_leaves_no_half(tmp_path: Path) -> None:
    """The folder came into the way while the work was done."""
    (tmp_path / "me.png").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_whole(tmp_path / "me.png", b"picture")
    assert names(tmp_path) == ["me.png"]
