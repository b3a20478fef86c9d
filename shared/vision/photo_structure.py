"""Walk a JPEG's segments or a PNG's chunks, without decoding a pixel: size, wholeness, orientation, and what to decode.

Sources: ITU-T T.81 (JPEG), the PNG specification (W3C, third edition, with APNG), TIFF 6.0 for the EXIF directory.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PhotoFormat = Literal["JPEG", "PNG"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

MAX_JPEG_SCANS = 100
"""Each scan of a progressive JPEG is a pass over the whole picture; cameras write about ten."""

_ORIENTATION_TAG = 0x0112
_PNG_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_PNG_PALETTE = 3
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"IDAT", b"IEND"}

_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_NOT_SEGMENTS = {0x00, *range(0xD0, 0xD8), _SOI}
_FRAME_HEADERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_METADATA = {*range(_APP0, _APP0 + 16), _COMMENT}
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@dataclass
class Structure:
    """What the file says of itself.

    Attributes:
        width: pixels as stored, before the orientation is applied; None where the file ends before saying so.
        height: likewise.
        bits: per channel.
        frames: more than 1 for an animation.
        orientation: EXIF's, 1 to 8; 1 where none is stated.
        damage: what is wrong with the file, as the end of the sentence "the file ..."; None for a whole one.
        essence: the file without its metadata (colour profile kept). Empty where damaged.
    """

    format: PhotoFormat
    width: int | None = None
    height: int | None = None
    bits: int = 8
    frames: int = 1
    orientation: int = 1
    damage: str | None = None
    essence: bytes = b""


class _DamageError(Exception):
    """The file cannot be followed any further."""


def read_structure(data: bytes) -> Structure | None:
    """Follow the file from its first byte to its last; None for what is neither JPEG nor PNG.

    Only the first picture of a multi-picture JPEG (MPO) is followed; whatever comes after it is left alone.
    """
    if data.startswith(PNG_SIGNATURE):
        structure, walk = Structure("PNG"), _walk_png
    elif data.startswith(JPEG_SIGNATURE):
        structure, walk = Structure("JPEG"), _walk_jpeg
    else:
        return None
    try:
        structure.essence = walk(data, structure)
    except _DamageError as damage:
        structure.damage = str(damage)
    return structure


def exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block (a TIFF file's head), 1 to 8; 1 where it is absent or unreadable."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield each chunk's type, its body, and the whole of it; ends after IEND."""
    position = len(PNG_SIGNATURE)
    while True:
        if position + 8 > len(data):
            raise _DamageError(f"is cut off after {len(data):,} bytes: its end mark (IEND) is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _DamageError(f"is cut off: {end - len(data):,} bytes are missing after byte {len(data):,}")
        body = data[position + 8 : end - 4]
        (stated,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(body, zlib.crc32(kind)) != stated:
            raise _DamageError(f"is corrupt: the checksum of the block at byte {position:,} is wrong")
        yield kind, body, data[position:end]
        if kind == b"IEND":
            return
        position = end


def _walk_png(data: bytes, structure: Structure) -> bytes:
    colour = _read_png_header(data, structure)
    kept = [PNG_SIGNATURE]
    kinds: set[bytes] = set()
    for kind, body, whole in _png_chunks(data):
        if kind == b"IHDR" and kind in kinds:
            raise _DamageError("is corrupt: it has two headers")
        kinds.add(kind)
        if kind in _PNG_KEPT:
            kept.append(whole)
        elif kind == b"acTL" and len(body) == 8:
            (structure.frames,) = struct.unpack_from(">I", body)
        elif kind == b"eXIf":
            structure.orientation = exif_orientation(body)
    if b"IDAT" not in kinds or (colour == _PNG_PALETTE and b"PLTE" not in kinds):
        raise _DamageError("is corrupt: it has no picture data" if b"IDAT" not in kinds else "is corrupt: no palette")
    return b"".join(kept)


def _read_png_header(data: bytes, structure: Structure) -> int:
    """Fill in size and depth from the IHDR chunk, which must come first; return the colour type."""
    if len(data) < 33:
        raise _DamageError(f"is cut off after {len(data):,} bytes, within its header")
    length, kind, width, height, bits, colour, compression, filtering, interlace = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if (length, kind) != (13, b"IHDR"):
        raise _DamageError("is corrupt: it does not begin with a PNG header")
    structure.width, structure.height, structure.bits = width, height, bits
    if bits not in _PNG_DEPTHS.get(colour, set()) or compression or filtering or interlace > 1:
        raise _DamageError("is corrupt: its PNG header holds values the format does not know")
    return int(colour)


def _walk_jpeg(data: bytes, structure: Structure) -> bytes:
    kept = [data[:2]]
    position, scans = 2, 0
    while True:
        marker, position = _next_marker(data, position)
        if marker == _EOI:
            if not scans:
                raise _DamageError("is corrupt: it has no picture data")
            kept.append(b"\xff\xd9")
            return b"".join(kept)
        body, end = _segment(data, position)
        if marker in _FRAME_HEADERS:
            _read_jpeg_frame(body, structure)
        elif marker == _APP1 and body.startswith(b"Exif\0\0"):
            structure.orientation = exif_orientation(body[6:])
        if marker == _SOS:
            scans += 1
            if structure.width is None or scans > MAX_JPEG_SCANS:
                found = "its size is missing" if structure.width is None else f"over {MAX_JPEG_SCANS} scans"
                raise _DamageError(f"is corrupt: {found}")
            end = _end_of_scan(data, end)
        if marker not in _METADATA or _describes_colour(marker, body):
            kept.append(data[position - 2 : end])
        position = end


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return the marker at a position, past any fill bytes, and where its segment starts."""
    start = position
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise _DamageError(f"is cut off after {len(data):,} bytes: its end mark (EOI) is missing")
    marker = data[position]
    if position == start or marker in _NOT_SEGMENTS:
        raise _DamageError(f"is corrupt: no JPEG segment begins at byte {start:,}")
    return marker, position + 1


def _segment(data: bytes, position: int) -> tuple[bytes, int]:
    """Return a segment's body and where it ends."""
    if position + 2 > len(data):
        raise _DamageError(f"is cut off after {len(data):,} bytes: its end mark (EOI) is missing")
    (length,) = struct.unpack_from(">H", data, position)
    end = position + length
    if length < 2:
        raise _DamageError(f"is corrupt: the JPEG segment at byte {position:,} has no length")
    if end > len(data):
        raise _DamageError(f"is cut off: {end - len(data):,} bytes are missing after byte {len(data):,}")
    return data[position + 2 : end], end


def _end_of_scan(data: bytes, position: int) -> int:
    found = _MARKER_AFTER_SCAN.search(data, position)
    if found is None:
        raise _DamageError(f"is cut off after {len(data):,} bytes: its end mark (EOI) is missing")
    return found.start()


def _read_jpeg_frame(body: bytes, structure: Structure) -> None:
    if structure.width is not None or len(body) < 6:
        raise _DamageError("is corrupt: its picture header is unreadable or there twice")
    structure.bits, structure.height, structure.width = struct.unpack_from(">BHH", body)


def _describes_colour(marker: int, body: bytes) -> bool:
    """Whether an application segment tells the decoder how to read the colours: JFIF, Adobe, ICC profile."""
    if marker == _APP2:
        return body.startswith(b"ICC_PROFILE\0")
    return marker in {_APP0, _APP14}
