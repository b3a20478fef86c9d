"""Photos made in memory, whole and broken."""

import random
import struct
import zlib
from io import BytesIO

from PIL import Image


def picture(width: int = 600, height: int = 520, mode: str = "RGB") -> Image.Image:
    noise = Image.frombytes("RGB", (32, 32), random.Random(7).randbytes(32 * 32 * 3))
    return noise.resize((width, height)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A PNG is packed fast rather than well: how small its file is concerns nobody."""
    out = BytesIO()
    image.save(out, kind, **({"compress_level": 1} if kind == "PNG" else {}), **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, colour: int = 2, bits: int = 8, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
