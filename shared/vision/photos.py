"""Take in a photo: refuse what cannot be used before a pixel is decoded, and make the rest plain.

Pillow alone; what a picture shows (a face, its size and light) is judged later, by the identity stage.
"""

import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated

from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.errors import InvalidInput
from shared.vision.photo_structure import PhotoFormat, Structure, read_structure

MIN_PHOTOS, MAX_PHOTOS = 1, 5

_EXPORT = "Export the photo as JPEG or PNG and send that."
_ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **{f".{name.lower()}": name for name in ("GIF", "WebP", "BMP", "AVIF", "PDF", "SVG", "JXL", "ICO", "DNG")},
}
_SIGNATURES = (
    (b"GIF8", 0, "a GIF"),
    (b"WEBP", 8, "a WebP"),
    (b"BM", 0, "a BMP"),
    (b"II*\0", 0, "a TIFF"),
    (b"MM\0*", 0, "a TIFF"),
    (b"ftypavif", 4, "an AVIF"),
    (b"ftyphei", 4, "a HEIC"),
    (b"ftypmif1", 4, "a HEIC"),
    (b"%PDF", 0, "a PDF"),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODE_OF_PROFILE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class PhotoLimits(BaseModel):
    """What a photo may be. A part of the settings, so figures may come as text from the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: Annotated[int, Field(ge=1)] = 10 * 1024 * 1024
    min_side_px: Annotated[int, Field(ge=1)] = 512
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    normalised_side_px: Annotated[int, Field(ge=64, description="longest side of the normalised photo")] = 2048


@dataclass(frozen=True)
class PhotoInfo:
    """What the file says of itself. Width and height in pixels, as seen upright."""

    format: PhotoFormat
    width: int
    height: int
    bits_per_channel: int
    orientation: int
    size_bytes: int

    @property
    def media_type(self) -> str:
        """`image/jpeg` or `image/png`."""
        return f"image/{self.format.lower()}"


def check_count(count: int, *, field: str = "photos") -> None:
    """Refuse a request that does not bring 1 to 5 photos.

    Raises:
        InvalidInput: none, or too many.
    """
    if count < MIN_PHOTOS:
        raise InvalidInput(field, "no photo was given", f"Give {MIN_PHOTOS} to {MAX_PHOTOS} photos of one person.")
    if count > MAX_PHOTOS:
        raise InvalidInput(
            field, f"{count} photos were given", f"Give {MIN_PHOTOS} to {MAX_PHOTOS}; choose the sharpest ones."
        )


def read_photo_file(path: Path, *, field: str, limits: PhotoLimits) -> bytes:
    """Read a file the caller named, and never more of it than the limit.

    Raises:
        InvalidInput: missing, not a plain file, unreadable or too large.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InvalidInput(field, f"'{path}' is a folder", "Name the photo's file inside it.")
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(field, f"'{path}' is not a plain file", "Name a JPEG or PNG file.")
        if status.st_size > limits.max_bytes:
            raise _too_large(field, status.st_size, limits)
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise InvalidInput(field, f"there is no file '{path}'", "Check the path for typing errors.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(
            field, f"'{path}' cannot be read ({reason})", "Check the path and its permissions."
        ) from error


def check_photo(data: bytes, *, field: str, name: str | None, limits: PhotoLimits) -> PhotoInfo:
    """Judge a photo by its bytes and its name alone; no pixel is decoded.

    Args:
        data: the whole file.
        field: where it stands in the request, for the message.
        name: the file's name or key, where known; its ending must not contradict the bytes.
        limits: what is allowed.

    Raises:
        InvalidInput: with what was found, in figures, and the mend.
    """
    structure = _check(data, field=field, name=name, limits=limits)
    width, height = structure.width or 0, structure.height or 0
    if structure.orientation >= 5:
        width, height = height, width
    return PhotoInfo(structure.format, width, height, structure.bits, structure.orientation, len(data))


def normalise_photo(data: bytes, *, field: str, name: str | None, limits: PhotoLimits) -> bytes:
    """Check a photo, then make it a plain PNG: RGB, 8 bit, sRGB, upright, bounded, without metadata.

    A colour profile is applied and dropped (relative colorimetric, black point compensation); one that does not fit the
    picture is ignored. Transparent parts are laid on white. 16-bit samples keep their high byte. Of a
    multi-picture JPEG the first picture counts. Larger pictures are reduced by Lanczos, none is enlarged.
    The same bytes in give the same bytes out.

    Raises:
        InvalidInput: as `check_photo`, and for data that cannot be decoded.
    """
    structure = _check(data, field=field, name=name, limits=limits)
    try:
        image = _decode(structure, limits.normalised_side_px)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(field, f"the {structure.format} is corrupt ({error})", _EXPORT) from error
    image = _to_srgb(image, image.info.get("icc_profile"))
    if structure.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[structure.orientation])
    image.info = {}
    out = BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _check(data: bytes, *, field: str, name: str | None, limits: PhotoLimits) -> Structure:
    if not data:
        raise InvalidInput(field, "the file is empty", "Send the photo's file again.")
    if len(data) > limits.max_bytes:
        raise _too_large(field, len(data), limits)
    structure = read_structure(data)
    if structure is None:
        raise InvalidInput(field, f"the file is {_kind_of(data)}, not a JPEG or PNG", _EXPORT)
    stated = _ENDINGS.get(PurePosixPath(name).suffix.lower()) if name else None
    if stated and stated != structure.format:
        raise InvalidInput(
            field,
            f"the name '{name}' says {stated}, but the file is a {structure.format}",
            "Give the file the ending of what it is, or export it anew.",
        )
    _check_size(structure, field, limits)
    if structure.frames > 1:
        raise InvalidInput(
            field, f"the PNG is animated, with {structure.frames} frames", "Export a single frame of it."
        )
    if structure.damage:
        raise InvalidInput(field, f"the {structure.format} {structure.damage}", "Copy or export the photo again.")
    return structure


def _check_size(structure: Structure, field: str, limits: PhotoLimits) -> None:
    if structure.width is None or structure.height is None:
        return
    width, height = structure.width, structure.height
    if not width or not height:
        raise InvalidInput(field, f"the picture is {width} x {height} pixels: it has no area", _EXPORT)
    if width * height > limits.max_pixels:
        raise InvalidInput(
            field,
            f"the picture is {width} x {height} pixels, {width * height / 1e6:.1f} megapixels",
            f"Reduce it to at most {limits.max_pixels / 1e6:g} megapixels.",
        )
    if min(width, height) < limits.min_side_px:
        raise InvalidInput(
            field,
            f"the picture is {width} x {height} pixels",
            f"Send one of at least {limits.min_side_px} x {limits.min_side_px}; enlarging a small one does not help.",
        )


def _too_large(field: str, size: int, limits: PhotoLimits) -> InvalidInput:
    return InvalidInput(
        field,
        f"the file has {size / 2**20:.1f} MB ({size:,} bytes)",
        f"Send at most {limits.max_bytes / 2**20:g} MB ({limits.max_bytes:,} bytes): save it as JPEG or reduce it.",
    )


def _kind_of(data: bytes) -> str:
    for signature, offset, kind in _SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    return "of an unknown type"


def _decode(structure: Structure, side: int) -> Image.Image:
    """Decode to L, RGB or CMYK with the longest side bounded; the colour profile stays in `info`."""
    plugin = JpegImagePlugin.JpegImageFile if structure.format == "JPEG" else PngImagePlugin.PngImageFile
    image: Image.Image = plugin(BytesIO(structure.essence))
    profile = image.info.get("icc_profile")
    if structure.bits == 16:
        image.info.pop("transparency", None)
    if image.mode.startswith("I"):
        image = image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.load()
    if image.mode in {"LA", "RGBA"}:
        opaque = image.convert(image.mode[:-1])
        opaque.paste("white", mask=Image.eval(image.getchannel("A"), lambda alpha: 255 - alpha))
        image = opaque
    image.info["icc_profile"] = profile
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile; where there is none, or none that fits, convert as if to sRGB."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        fitting = image.convert("RGB") if (space, image.mode) == ("RGB", "L") else image
        if _MODE_OF_PROFILE.get(space) == fitting.mode:
            converted = ImageCms.profileToProfile(
                fitting,
                source,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            if converted is not None:
                return converted
    except (ImageCms.PyCMSError, OSError):
        pass
    return image.convert("RGB")
