"""Every photo that is taken becomes the same kind of thing: an upright, bounded RGB PNG in sRGB, without metadata."""

import random
import struct
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from shared.vision.photo_structure import exif_orientation
from shared.vision.photos import PhotoLimits, check_photo, normalise_photo
from tests.unit.photo_files import chunk, encoded, picture, png

LIMITS = PhotoLimits()
ORIENTATION = 0x0112
RED, GREEN, BLUE, WHITE = (220, 30, 20), (20, 200, 40), (30, 40, 210), (250, 250, 250)


def normalised(data: bytes, limits: PhotoLimits = LIMITS) -> Image.Image:
    image = Image.open(BytesIO(normalise_photo(data, field="photos[0]", name=None, limits=limits)))
    image.load()
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Top left, top right, bottom left, bottom right."""
    right, bottom = image.width - 20, image.height - 20
    return [tuple(np.asarray(image)[y, x]) for y in (20, bottom) for x in (20, right)]


def four_corners(width: int = 640, height: int = 520) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def near(found: object, wanted: object, tolerance: int = 6) -> bool:
    return bool(np.max(np.abs(np.asarray(found, float) - np.asarray(wanted, float))) <= tolerance)


STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    upright = four_corners()
    turn = STORED_AS[orientation]
    stored = upright.transpose(turn) if turn is not None else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(stored, kind, exif=exif)

    info = check_photo(data, field="photos[0]", name=None, limits=LIMITS)
    assert (info.width, info.height, info.orientation) == (640, 520, orientation)
    result = normalised(data)
    assert result.size == (640, 520)
    assert near(corners(result), corners(upright))


def exif_block(order: str, entries: list[tuple[int, int]]) -> bytes:
    mark = {"<": b"II", ">": b"MM"}[order]
    body = struct.pack(order + "HIH", 42, 8, len(entries))
    return mark + body + b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_in_either_byte_order(order: str) -> None:
    assert exif_orientation(exif_block(order, [(0x010F, 5), (ORIENTATION, 6)])) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"nonsense that is no TIFF",
        exif_block("<", [(ORIENTATION, 9)]),
        exif_block("<", [(0x010F, 5)]),
        exif_block(">", [(0x010F, 5), (ORIENTATION, 6)])[:20],
        b"II*\0\xff\xff\xff\xff",
    ],
)
def test_an_unreadable_orientation_counts_as_upright(block: bytes) -> None:
    assert exif_orientation(block) == 1


def chunks_of(data: bytes) -> list[bytes]:
    kinds, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        kinds.append(kind)
        position += 12 + length
    return kinds


def test_no_metadata_is_left() -> None:
    """EXIF (with a position), comments, text, resolution, colour profile: all gone."""
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8825)[1] = "N"
    text = PngInfo()
    text.add_text("Comment", "the patient's name", zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (
        encoded(picture(), "JPEG", exif=exif, comment=b"the patient's name", icc_profile=profile, dpi=(300, 300)),
        encoded(picture(), "PNG", exif=exif, pnginfo=text, icc_profile=profile, dpi=(300, 300)),
    ):
        assert b"patient" in data or b"zTXt" in data
        plain = normalise_photo(data, field="photos[0]", name=None, limits=LIMITS)
        assert set(chunks_of(plain)) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG")],
)
def test_every_mode_becomes_eight_bit_rgb(mode: str, kind: str) -> None:
    source = four_corners().convert(mode)
    result = normalised(encoded(source, kind))
    assert result.mode == "RGB"
    assert near(corners(result), corners(source.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    """A plain conversion by Pillow would clip everything above 255 of 65535 to white."""
    ramp = np.tile(np.linspace(0, 65535, 600).astype(np.uint16), (520, 1))
    data = encoded(Image.fromarray(ramp), "PNG")
    assert check_photo(data, field="photos[0]", name=None, limits=LIMITS).bits_per_channel == 16
    result = np.asarray(normalised(data))
    assert near(result[0, :, 0], ramp[0] >> 8, 0)
    assert (result[..., 0] == result[..., 2]).all()


def test_sixteen_bit_colour_keeps_its_tones() -> None:
    row = b"\0" + struct.pack(">HHH", 0xC080, 0x4001, 0x10FF) * 600
    result = normalised(png(600, 520, bits=16, pixels=row * 520))
    assert result.getpixel((300, 300)) == (0xC0, 0x40, 0x10)


def test_a_transparent_colour_of_a_sixteen_bit_picture_is_ignored() -> None:
    row = b"\0" + struct.pack(">HHH", 0xC080, 0x4001, 0x10FF) * 600
    key = chunk(b"tRNS", struct.pack(">HHH", 0xC080, 0x4001, 0x10FF))
    result = normalised(png(600, 520, bits=16, extra=key, pixels=row * 520))
    assert result.getpixel((300, 300)) == (0xC0, 0x40, 0x10)


def test_transparent_parts_are_laid_on_white() -> None:
    image = four_corners().convert("RGBA")
    image.paste((10, 10, 10, 0), (0, 0, 320, 260))
    image.paste((0, 0, 0, 128), (320, 0, 640, 260))
    result = corners(normalised(encoded(image, "PNG")))
    assert result[0] == (255, 255, 255)
    assert near(result[1], (127, 127, 127), 1)
    assert result[2:] == [BLUE, WHITE]


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.new("P", (600, 520), 1)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(0, (0, 0, 300, 520))
    result = corners(normalised(encoded(image, "PNG", transparency=0)))
    assert result[0] == (255, 255, 255)
    assert result[1] == (0, 0, 200)


def test_a_transparent_colour_is_laid_on_white() -> None:
    result = corners(normalised(encoded(four_corners(), "PNG", transparency=RED)))
    assert result == [(255, 255, 255), GREEN, BLUE, WHITE]


def wide_gamut_profile() -> bytes:
    """A matrix profile with Adobe RGB's primaries (adapted to D50, ICC.1:2010) and gamma 2.2, built by hand."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"text\0\0\0\0test\0\0\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1),
        b"cprt": text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.6097, 0.3111, 0.0195),
        b"gXYZ": xyz(0.2053, 0.6257, 0.0609),
        b"bXYZ": xyz(0.1492, 0.0632, 0.7446),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    head += bytes(128 - len(head))
    return head + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_colour_profile_is_converted_to_srgb(kind: str) -> None:
    """(120, 180, 90) in Adobe RGB is a stronger green in sRGB; red leaves the negative side first. Greys stay."""
    image = Image.new("RGB", (600, 520), (120, 180, 90))
    image.paste((128, 128, 128), (300, 0, 600, 520))
    result = corners(normalised(encoded(image, kind, icc_profile=wide_gamut_profile(), **lossless(kind))))
    assert near(result[0], srgb_of_adobe((120, 180, 90)), 3)
    assert result[0][0] < 110
    assert near(result[1], (128, 128, 128), 3)


def lossless(kind: str) -> dict[str, int]:
    return {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}


def srgb_of_adobe(colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """The same colour by the published matrices (Adobe RGB (1998), IEC 61966-2-1)."""
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    from_xyz = np.array([[3.24097, -1.53738, -0.49861], [-0.96924, 1.87597, 0.04156], [0.05563, -0.20398, 1.05697]])
    linear = np.clip(from_xyz @ to_xyz @ (np.array(colour) / 255) ** 2.19921875, 0, 1)
    encoded_values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255 * encoded_values)


def test_a_grey_photo_with_an_rgb_profile_stays_grey() -> None:
    data = encoded(picture().convert("L"), "JPEG", icc_profile=wide_gamut_profile())
    pixels = np.asarray(normalised(data)).astype(int)
    assert np.max(np.ptp(pixels, axis=2)) <= 1


def test_a_profile_that_does_not_fit_is_ignored() -> None:
    plain = encoded(four_corners().convert("CMYK"), "JPEG")
    for profile in (b"no profile at all", wide_gamut_profile()):
        odd = encoded(four_corners().convert("CMYK"), "JPEG", icc_profile=profile)
        assert normalised(odd).tobytes() == normalised(plain).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "wanted"), [((3000, 1500), (2048, 1024)), ((1200, 4800), (512, 2048))])
def test_the_longest_side_is_bounded(kind: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    result = normalised(encoded(four_corners(*size), kind))
    assert result.size == wanted
    assert near(corners(result), (RED, GREEN, BLUE, WHITE))


def test_the_bound_is_a_parameter_and_nothing_is_enlarged() -> None:
    data = encoded(picture(700, 520), "PNG")
    assert normalised(data, PhotoLimits(normalised_side_px=350)).size == (350, 260)
    assert normalised(data).tobytes() == picture(700, 520).tobytes()


def test_reducing_averages_fine_detail() -> None:
    """A one-pixel chequerboard becomes even grey: nearest neighbour would leave black and white."""
    board = Image.fromarray((np.indices((1024, 1024)).sum(axis=0) % 2 * 255).astype(np.uint8))
    result = np.asarray(normalised(encoded(board, "PNG"), PhotoLimits(normalised_side_px=512)))[50:-50, 50:-50]
    assert near(result, 127.5, 3)


def test_a_phones_multi_picture_file_gives_its_first_picture() -> None:
    first, second = four_corners(), picture(640, 520)
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    with Image.open(BytesIO(data)) as opened:
        assert opened.format == "MPO"
        assert getattr(opened, "n_frames", 1) == 2
    assert check_photo(data, field="photos[0]", name="me.jpg", limits=LIMITS).format == "JPEG"
    assert near(corners(normalised(data)), (RED, GREEN, BLUE, WHITE))


def test_a_phones_trailer_after_the_picture_is_no_damage() -> None:
    data = encoded(picture(), "JPEG")
    assert normalised(data + b"MotionPhoto_Data" + bytes(5000)).tobytes() == normalised(data).tobytes()


def test_a_png_with_a_single_frame_of_animation_is_a_still() -> None:
    data = encoded(four_corners(), "PNG")
    still = data[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + data[33:]
    assert normalised(still).tobytes() == four_corners().tobytes()


def test_a_progressive_photo_is_taken() -> None:
    data = encoded(four_corners(), "JPEG", progressive=True)
    assert near(corners(normalised(data)), (RED, GREEN, BLUE, WHITE))


def test_the_same_photo_gives_the_same_bytes_in_another_process() -> None:
    noise = Image.frombytes("RGB", (900, 700), random.Random(3).randbytes(900 * 700 * 3))
    data = encoded(noise, "JPEG", icc_profile=wide_gamut_profile())
    limits = PhotoLimits(normalised_side_px=640)
    here = normalise_photo(data, field="photos[0]", name=None, limits=limits)
    script = (
        "import sys; from shared.vision.photos import *;"
        "sys.stdout.buffer.write(normalise_photo(sys.stdin.buffer.read(), field='f', name=None,"
        "limits=PhotoLimits(normalised_side_px=640)))"
    )
    there = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True).stdout
    assert there == here


def test_the_module_is_light() -> None:
    """The gateway and the CLI import it: no numpy, OpenCV or MediaPipe may come along."""
    script = (
        "import sys, shared.vision.photos;"
        "print([name for name in ('numpy', 'cv2', 'mediapipe', 'torch') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    assert found.strip() == "[]"
