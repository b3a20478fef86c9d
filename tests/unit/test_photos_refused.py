"""What is wrong with a photo's file is said before a pixel is decoded: field, what was found, mend."""

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.contracts.errors import InvalidInput
from shared.vision.photos import PhotoLimits, check_count, check_photo, normalise_photo, read_photo_file
from tests.unit.photo_files import chunk, encoded, picture, png

LIMITS = PhotoLimits()
SMALL = PhotoLimits(min_side_px=8, normalised_side_px=64)


JPEG = encoded(picture(), "JPEG")
JPEG_END = b"\xff\xd9"
PNG = encoded(picture(), "PNG")


def refusal(data: bytes, name: str | None = None, limits: PhotoLimits = LIMITS) -> InvalidInput:
    """The refusal of both ways in, which must agree."""
    with pytest.raises(InvalidInput) as checked:
        check_photo(data, field="photos[0]", name=name, limits=limits)
    with pytest.raises(InvalidInput) as normalised:
        normalise_photo(data, field="photos[0]", name=name, limits=limits)
    assert str(checked.value) == str(normalised.value)
    assert checked.value.field == "photos[0]"
    return checked.value


@pytest.mark.parametrize(
    ("kind", "name"), [("GIF", "a GIF"), ("BMP", "a BMP"), ("TIFF", "a TIFF"), ("WEBP", "a WebP"), ("AVIF", "an AVIF")]
)
def test_another_picture_type_is_named(kind: str, name: str) -> None:
    error = refusal(encoded(picture(64, 64), kind))
    assert str(error) == (
        f"photos[0]: the file is {name}, not a JPEG or PNG. Export the photo as JPEG or PNG and send that."
    )


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "the file is a HEIC, not a JPEG or PNG"),
        (b"%PDF-1.7\n", "the file is a PDF, not a JPEG or PNG"),
        (b"hello", "the file is of an unknown type, not a JPEG or PNG"),
        (PNG[:6], "the file is of an unknown type, not a JPEG or PNG"),
    ],
)
def test_what_is_no_picture_we_take_is_named(data: bytes, found: str) -> None:
    assert refusal(data).found == found


def test_a_gif_named_jpg_is_told_as_a_gif() -> None:
    assert "the file is a GIF" in refusal(encoded(picture(64, 64), "GIF"), "me.jpg").found


@pytest.mark.parametrize(
    ("data", "name", "found"),
    [
        (PNG, "me.jpg", "the name 'me.jpg' says JPEG, but the file is a PNG"),
        (JPEG, "inbox/7/Me.PNG", "the name 'inbox/7/Me.PNG' says PNG, but the file is a JPEG"),
        (JPEG, "me.heic", "the name 'me.heic' says HEIC, but the file is a JPEG"),
        (JPEG, "me.webp", "the name 'me.webp' says WebP, but the file is a JPEG"),
    ],
)
def test_a_lying_ending_is_refused(data: bytes, name: str, found: str) -> None:
    error = refusal(data, name)
    assert error.found == found
    assert error.mend == "Give the file the ending of what it is, or export it anew."


@pytest.mark.parametrize("name", [None, "photo", "me.JPEG", "upload.tmp", "inbox/dr.house"])
def test_a_true_or_silent_ending_is_accepted(name: str | None) -> None:
    assert check_photo(JPEG, field="photos[0]", name=name, limits=LIMITS).format == "JPEG"


def test_a_deployment_may_set_other_limits() -> None:
    """Given as text, as the environment gives them."""
    limits = PhotoLimits.model_validate({"min_side_px": "800", "max_pixels": "2000000"})
    assert refusal(JPEG, limits=limits).mend.startswith("Send one of at least 800 x 800")
    assert refusal(encoded(picture(2000, 1200), "JPEG"), limits=limits).mend == "Reduce it to at most 2 megapixels."


def test_an_empty_file_is_refused() -> None:
    assert str(refusal(b"")) == "photos[0]: the file is empty. Send the photo's file again."


def test_a_file_over_ten_megabytes_is_refused_with_its_size() -> None:
    data = JPEG + bytes(11 * 2**20 - len(JPEG))
    assert str(refusal(data)) == (
        "photos[0]: the file has 11.0 MB (11,534,336 bytes). "
        "Send at most 10 MB (10,485,760 bytes): save it as JPEG or reduce it."
    )


@pytest.mark.parametrize("size", [(511, 900), (900, 511), (64, 64)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_small_picture_is_refused_with_its_size(kind: str, size: tuple[int, int]) -> None:
    error = refusal(encoded(picture(*size), kind))
    assert error.found == f"the picture is {size[0]} x {size[1]} pixels"
    assert "at least 512 x 512" in error.mend


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_512_by_512_is_enough(kind: str) -> None:
    info = check_photo(encoded(picture(512, 512), kind), field="photos[0]", name=None, limits=LIMITS)
    assert (info.width, info.height) == (512, 512)


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size than it has."""
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png(60000, 60000, pixels=bytes(1 << 20)), "the picture is 60000 x 60000 pixels, 3600.0 megapixels"),
        (png(7072, 7071), "the picture is 7072 x 7071 pixels, 50.0 megapixels"),
        (png(2**31 - 1, 2**31 - 1)[:33], "4611686014132.4 megapixels"),
        (jpeg_of_claimed_size(65500, 65500), "the picture is 65500 x 65500 pixels, 4290.2 megapixels"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(
    data: bytes, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow is not even asked to open it, so not a byte of its pixels can be unpacked."""

    def opened(*_: object) -> None:
        pytest.fail("a bomb was handed to the decoder")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.__init__", opened)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.__init__", opened)
    error = refusal(data)
    assert found in error.found
    assert error.mend == "Reduce it to at most 50 megapixels."


@pytest.mark.parametrize(
    ("data", "size"), [(png(0, 700), "0 x 700"), (png(700, 0), "700 x 0"), (jpeg_of_claimed_size(600, 0), "600 x 0")]
)
def test_a_picture_without_area_is_refused(data: bytes, size: str) -> None:
    assert refusal(data).found == f"the picture is {size} pixels: it has no area"


def test_an_animated_png_is_refused_with_its_frames() -> None:
    frames = [picture().rotate(angle) for angle in (0, 90, 180)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert str(refusal(data)) == "photos[0]: the PNG is animated, with 3 frames. Export a single frame of it."


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_off_is_refused(kind: str, share: float) -> None:
    data = encoded(picture(), kind)
    error = refusal(data[: int(len(data) * share)])
    assert error.found.startswith(f"the {kind} is cut off")
    assert error.mend == "Copy or export the photo again."


@pytest.mark.parametrize("lost", [1, 2, 4, 11, 12])
@pytest.mark.parametrize(
    "data", [JPEG, PNG, encoded(picture(), "JPEG", progressive=True)], ids=["JPEG", "PNG", "progressive"]
)
def test_even_a_lost_tail_is_noticed(data: bytes, lost: int) -> None:
    """Pillow shows a picture whose end mark is missing; we do not take it."""
    assert "is cut off" in refusal(data[:-lost]).found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_cut_of_a_photo_is_accepted(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([JPEG, PNG]))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidInput):
        check_photo(whole[:cut], field="photos[0]", name=None, limits=LIMITS)


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    damaged = bytearray(PNG)
    damaged[len(PNG) // 2] ^= 1
    assert "is corrupt: the checksum of the block at byte" in refusal(bytes(damaged)).found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png(600, 600, colour=5), "its PNG header holds values the format does not know"),
        (png(600, 600, bits=4), "its PNG header holds values the format does not know"),
        (png(600, 600, colour=3), "no palette"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", bytes(40)), "it does not begin with a PNG header"),
        (png(600, 600, extra=chunk(b"IHDR", bytes(13))), "it has two headers"),
        (png(600, 600).replace(chunk(b"IDAT", zlib.compress(b"")), b""), "it has no picture data"),
        (b"\xff\xd8\xff\xd9", "it has no picture data"),
        (b"\xff\xd8\xff\xe0\x00\x01", "the JPEG segment at byte 4 has no length"),
        (b"\xff\xd8\xff\xda\x00\x02\x11\xff\xd9", "its size is missing"),
        (JPEG[:20] + b"rubbish" + JPEG[20:], "no JPEG segment begins at byte 20"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc0\x00\x08" + bytes(6) + b"\xff\xc0", 1), "it has no area"),
    ],
)
def test_a_corrupt_structure_is_described(data: bytes, found: str) -> None:
    assert found in refusal(data).found


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan costs the decoder a pass over the whole picture, and the file a few bytes."""
    start = JPEG.index(b"\xff\xda")
    data = JPEG[:start] + b"\xff\xda\x00\x02\x55" * 101 + JPEG[start:]
    assert "over 100 scans" in refusal(data).found


def pixels_that_do_not_unpack() -> list[bytes]:
    nonsense = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 600, 600, 8, 2, 0, 0, 0))
    twelve_bits = JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1)
    return [
        nonsense + chunk(b"IDAT", b"not a zlib stream") + chunk(b"IEND", b""),
        png(600, 600, pixels=bytes(1000)),
        twelve_bits,
    ]


@pytest.mark.parametrize("data", pixels_that_do_not_unpack(), ids=["no zlib", "short", "12 bits"])
def test_pixels_that_do_not_unpack_are_refused_when_decoded(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise_photo(data, field="photos[2]", name=None, limits=LIMITS)
    assert caught.value.field == "photos[2]"
    assert "is corrupt (" in caught.value.found


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", JPEG[:3], PNG[:8], JPEG[:200], PNG[:40], JPEG[:700]]))
@example(JPEG_END, JPEG[:700])
def test_arbitrary_bytes_raise_nothing_but_a_refusal(tail: bytes, head: bytes) -> None:
    """But for a JPEG that was cut and got its end mark back: libjpeg takes what is missing for grey."""
    try:
        normalise_photo(head + tail, field="photos[0]", name=None, limits=SMALL)
    except InvalidInput:
        return
    assert head == JPEG[:700]
    assert JPEG_END in tail


@cache
def tiny_files() -> tuple[bytes, ...]:
    image = picture(24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    return (
        encoded(image, "JPEG", exif=exif),
        encoded(image, "JPEG", progressive=True, icc_profile=b"no profile at all"),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=exif),
        encoded(image.convert("P"), "PNG", transparency=3),
        encoded(image.convert("I;16"), "PNG"),
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mangled_photo_is_either_refused_or_made_plain(data: st.DataObject) -> None:
    """Bytes changed anywhere; a PNG's checksums are mended again, so that the decoder itself is reached."""
    mangled = bytearray(data.draw(st.sampled_from(tiny_files())))
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(mangled) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        mangled[position] = value
    try:
        plain = normalise_photo(with_true_checksums(bytes(mangled)), field="photos[0]", name=None, limits=SMALL)
    except InvalidInput as refused:
        assert refused.found  # noqa: PT017 - either outcome is right; a third would be a crash
    else:
        assert Image.open(BytesIO(plain)).mode == "RGB"


def with_true_checksums(data: bytes) -> bytes:
    if not data.startswith(PNG[:8]):
        return data
    mended, position = data[:8], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            break
        mended += chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return mended + data[position:]


@pytest.mark.parametrize("count", [1, 5])
def test_one_to_five_photos_are_accepted(count: int) -> None:
    check_count(count)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "photos: no photo was given. Give 1 to 5 photos of one person."),
        (6, "photos: 6 photos were given. Give 1 to 5; choose the sharpest ones."),
    ],
)
def test_no_photo_or_more_than_five_are_refused(count: int, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_count(count)
    assert str(caught.value) == message


def test_a_named_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "me.jpg").write_bytes(JPEG)
    assert read_photo_file(tmp_path / "me.jpg", field="doctor_image", limits=LIMITS) == JPEG


def _missing(folder: Path) -> Path:
    return folder / "nobody.jpg"


def _folder(folder: Path) -> Path:
    return folder


def _device(_: Path) -> Path:
    return Path("/dev/zero")


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "me.jpg"


def _null(folder: Path) -> Path:
    return folder / "a\0b.jpg"


def _sparse(folder: Path) -> Path:
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    return folder / "huge.jpg"


@pytest.mark.parametrize(
    ("make", "found", "mend"),
    [
        (_missing, "there is no file '", "Check the path for typing errors."),
        (_folder, "' is a folder", "Name the photo's file inside it."),
        (_device, "'/dev/zero' is not a plain file", "Name a JPEG or PNG file."),
        (_below_a_file, "cannot be read (Not a directory)", "Check the path and its permissions."),
        (_null, "cannot be read (embedded null byte)", "Check the path and its permissions."),
        (_sparse, "the file has 1048576.0 MB", "Send at most 10 MB"),
    ],
)
def test_a_path_that_cannot_be_a_photo_is_refused(
    make: Callable[[Path], Path], found: str, mend: str, tmp_path: Path
) -> None:
    """The file of a terabyte is judged by its size alone: reading it would not end."""
    with pytest.raises(InvalidInput) as caught:
        read_photo_file(make(tmp_path), field="doctor_image", limits=LIMITS)
    assert caught.value.field == "doctor_image"
    assert found in caught.value.found
    assert mend in caught.value.mend
