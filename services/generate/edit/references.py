"""What of the subject's photos an editing model is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.codec import Image, decode

_WIDE, _ABOVE, _BELOW = 5.0, 1.75, 4.0
"""Head and shoulders, in face widths: across, and up and down from the face's middle."""

_LEAST_SIDE = 256
"""In pixels. Smaller pictures are enlarged by the pipelines, or refused."""


@dataclass(frozen=True)
class Reference:
    """A photo, or the part of it with the subject. `photo` counts from 0."""

    photo: int
    picture: Image


def references(photos: Sequence[bytes], identity: bytes, most: int) -> tuple[Reference, ...]:
    """The photos to show, at most so many.

    Where the portable engines encoded the identity, their record says where the subject's face is: then each photo is
    cut to the head and shoulders, so that the face is not lost when the pipeline reduces it and nobody else is taken
    for the subject; the best photo comes first, the others by their quality. PuLID's identity says nothing of this:
    then the photos are shown whole, in their order.

    Raises:
        InvalidInput: the record is not of these photos.
    """
    if identity[:1] != b"{":
        return tuple(Reference(number, decode(photo)) for number, photo in enumerate(photos[:most]))
    record = IdentityRecord.from_json(identity)
    best = record.faces[record.best]
    others = sorted((face for face in record.faces if face is not best), key=lambda face: -face.quality)
    return tuple(_shown(photos, face) for face in (best, *others)[:most])


def _shown(photos: Sequence[bytes], face: FaceMeasure) -> Reference:
    if face.photo >= len(photos):
        raise InvalidInput(
            "photos",
            f"{len(photos)} of them, and the identity names number {face.photo + 1}",
            "Hand in the photos from which the identity was made.",
        )
    photo = decode(photos[face.photo])
    x, y, width, height = face.box
    rows, columns = photo.shape[:2]
    middle_x, middle_y = x + width / 2, y + height / 2
    if not (0 <= middle_x < columns and 0 <= middle_y < rows):
        raise InvalidInput(
            "identity",
            f"a face at {face.box} in a photo of {columns} x {rows} pixels",
            "Hand in the photos from which the identity was made.",
        )
    aside = max(_WIDE * width, _LEAST_SIDE) / 2
    above, below = max(_ABOVE * width, _LEAST_SIDE / 2), max(_BELOW * width, _LEAST_SIDE / 2)
    left, right = max(0, round(middle_x - aside)), min(columns, round(middle_x + aside))
    top, bottom = max(0, round(middle_y - above)), min(rows, round(middle_y + below))
    return Reference(face.photo, photo[top:bottom, left:right])
