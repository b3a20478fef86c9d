"""The measures that a picture is judged by, whoever took them."""

from dataclasses import dataclass

from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.measures import GreyLevels, grey_levels, sharpness

ANALYSED_PX = 1024
"""The longer side, at most, of the copy that faces are found on, and exposure and sharpness are measured on."""

FACE_CROP_PX = 256
_SHARPNESS_PX = 512


@dataclass(frozen=True)
class FaceObserved:
    """One face of the picture, held against the subject."""

    width_share: float
    """Of the picture's width, 0 to 1."""
    sharpness: float
    """Variance of the Laplacian of the FFHQ crop at 256 pixels."""
    distance: float
    """To all of the subject's photos together, as the encoder reckons it."""
    likeness: float
    """Of that distance, 0 to 1."""
    best_likeness: float
    """To whichever of the subject's photos is most alike, 0 to 1."""
    by_photo: tuple[float, ...] = ()
    """To each of the photos, 0 to 1; empty where it was not reckoned."""


@dataclass(frozen=True)
class Observation:
    """All that a picture is judged by."""

    width_px: int
    height_px: int
    levels: GreyLevels
    sharpness: float
    """Variance of the Laplacian at 512 pixels on the longer side."""
    faces: tuple[FaceObserved, ...]
    """Largest first."""


@dataclass(frozen=True)
class Marks:
    """What only the GPU engine measures of a picture."""

    hands: int | None
    """None where they were not looked for."""
    blockiness: float
    """The largest of the picture's and its copy's, with blocks of 8 and 16 pixels."""
    clipped: float
    """Share of pixels that are wholly black or white."""
    seam: float
    """How much the strongest straight line through the picture stands out."""


def observation_of(image: Image, reduced: Image, faces: tuple[FaceObserved, ...]) -> Observation:
    """What is measured of the whole picture, with its faces.

    All is measured on the copy, which was reduced by area averaging. That is the stricter way: a lone bright or dark
    pixel is averaged away and cannot meet the bounds of exposure, and sharpness does not depend on how far the picture
    was enlarged.

    Args:
        image: uint8 RGB.
        reduced: the same, `ANALYSED_PX` at most.
        faces: largest first.
    """
    small, _ = shrunk(reduced, _SHARPNESS_PX)
    return Observation(
        width_px=image.shape[1],
        height_px=image.shape[0],
        levels=grey_levels(reduced),
        sharpness=sharpness(small),
        faces=faces,
    )
