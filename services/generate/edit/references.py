"""What of the subject's photos an editing model is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.generate.edit.shoulders import head_and_shoulders
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FacePlace, IdentityRecord
from shared.flux.pulid.artifact import load_identity
from shared.vision.boxes import centre
from shared.vision.codec import Image, decode


@dataclass(frozen=True)
class Reference:
    """A photo, or the part of it with the subject."""

    photo: int
    """Which one, counted from 0."""
    picture: Image
    others: int | None
    """Faces of other people in it, passers-by not counted; None where the identity does not say where faces are."""


def references(photos: Sequence[bytes], identity: bytes, most: int) -> tuple[Reference, ...]:
    """The photos to show, at most so many.

    The identity says which face of each photo is the subject's: the one that the caller picked, if there are several.
    By the portable engines' record each photo is cut to the head and shoulders, so that the face is not lost when the
    pipeline reduces it; the best photo comes first, the others by their quality. By PuLID's identity a photo is cut
    where it shows other people, too, so that nobody else is taken for the subject; they stay in their order.

    Raises:
        InvalidInput: the identity is not of these photos.
        IntegrityError: PuLID's identity is damaged.
    """
    if identity[:1] == b"{":
        record = IdentityRecord.from_json(identity, "identity")
        best = record.faces[record.best]
        others = sorted((face for face in record.faces if face is not best), key=lambda face: -face.quality)
        return tuple(_cut(photos, face) for face in (best, *others)[:most])
    places = load_identity(identity, "identity").about.faces
    if places is None:
        return tuple(Reference(number, decode(photo), None) for number, photo in enumerate(photos[:most]))
    return tuple(_cut(photos, face) if face.others else _whole(photos, face) for face in places[:most])


def _whole(photos: Sequence[bytes], face: FacePlace) -> Reference:
    return Reference(face.photo, _photo_of(photos, face), 0)


def _cut(photos: Sequence[bytes], face: FacePlace) -> Reference:
    photo = _photo_of(photos, face)
    rows, columns = photo.shape[:2]
    others = face.others or ()
    cut = head_and_shoulders(face.box, others)
    left, right = max(0, round(cut.left)), min(columns, round(cut.right))
    top, bottom = max(0, round(cut.top)), min(rows, round(cut.bottom))
    return Reference(face.photo, photo[top:bottom, left:right], sum(cut.shows(other) for other in others))


def _photo_of(photos: Sequence[bytes], face: FacePlace) -> Image:
    """The photo, which must have the face's middle in it."""
    if face.photo >= len(photos):
        raise InvalidInput(
            "photos",
            f"{len(photos)} of them, and the identity names number {face.photo + 1}",
            "Hand in the photos from which the identity was made.",
        )
    photo = decode(photos[face.photo])
    rows, columns = photo.shape[:2]
    x, y = centre(face.box)
    if not (0 <= x < columns and 0 <= y < rows):
        raise InvalidInput(
            "identity",
            f"a face at {face.box} in a photo of {columns} x {rows} pixels",
            "Hand in the photos from which the identity was made.",
        )
    return photo
