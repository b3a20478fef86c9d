"""What a picture shows: its measures, before anyone judges them."""

from dataclasses import dataclass

from shared.contracts.identity import IdentityRecord
from shared.vision.align import aligned_crop
from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.embedding import FaceEncoder, distance, likeness
from shared.vision.faces import Face, FaceFinder
from shared.vision.measures import GreyLevels, grey_levels, sharpness

_ANALYSED_PX = 1024
_FACE_CROP_PX = 256
_SHARPNESS_PX = 512


@dataclass(frozen=True)
class FaceObserved:
    """One face of the picture, held against the subject."""

    width_share: float
    """Of the picture's width, 0 to 1."""
    sharpness: float
    """Variance of the Laplacian of the FFHQ crop at 256 pixels."""
    distance: float
    """To the subject's fused descriptor."""
    likeness: float
    """Of that distance, 0 to 1."""
    best_likeness: float
    """To whichever of the subject's photos is most alike, 0 to 1."""


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


def observe(image: Image, subject: IdentityRecord, finder: FaceFinder, encoder: FaceEncoder) -> Observation:
    """Measure a picture (uint8 RGB).

    All measures are taken on a copy of at most 1024 pixels, reduced by area averaging. That is the stricter way: a lone
    bright or dark pixel is averaged away and cannot meet the bounds of exposure, and sharpness does not depend on how
    far the picture was enlarged.
    """
    height, width = image.shape[:2]
    reduced, _ = shrunk(image, _ANALYSED_PX)
    small, _ = shrunk(reduced, _SHARPNESS_PX)
    return Observation(
        width_px=width,
        height_px=height,
        levels=grey_levels(reduced),
        sharpness=sharpness(small),
        faces=tuple(_observe_face(reduced, face, subject, encoder) for face in finder.find(reduced)),
    )


def _observe_face(image: Image, face: Face, subject: IdentityRecord, encoder: FaceEncoder) -> FaceObserved:
    descriptor = encoder.encode(image, face)
    apart = distance(descriptor, subject.embedding)
    nearest = min(distance(descriptor, photo.embedding) for photo in subject.faces)
    return FaceObserved(
        width_share=face.box[2] / image.shape[1],
        sharpness=sharpness(aligned_crop(image, face, _FACE_CROP_PX)),
        distance=apart,
        likeness=likeness(apart),
        best_likeness=likeness(nearest),
    )
