"""Whose face the picture is held against: one face of each of the subject's photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput
from shared.vision.boxes import shrunk
from shared.vision.codec import Image, decode
from shared.vision.networks.yunet import FoundFace

BACKGROUND = 0.5
"""Faces narrower than this share of a photo's widest are passers-by."""

ANALYSED_PX = 1024

Direction = NDArray[np.float32]


class Finder(Protocol):
    """What finds faces."""

    def find(self, image: Image) -> Sequence[FoundFace]:
        """The faces of a picture (uint8 RGB), largest first."""


class Describer(Protocol):
    """What describes them."""

    def describe(self, image: Image, points: NDArray[np.float64]) -> Direction:
        """The direction, of unit length, of the face at these five points."""


@dataclass(frozen=True, eq=False)
class References:
    """The subject's faces."""

    directions: NDArray[np.float32]
    """[N, D], of unit length."""
    photos: tuple[int, ...]
    """Which of the photos each is of, counted from 1."""
    without_face: tuple[int, ...]
    """The others."""
    with_several: tuple[int, ...]
    """Those that show several people, of whom one was chosen."""


def references_of(photos: Sequence[bytes], finder: Finder, describer: Describer) -> References:
    """One face of each photo that shows one.

    Raises:
        InvalidInput: a photo is no picture, or none shows a face.
    """
    shown = {number: _directions(photo, number, finder, describer) for number, photo in enumerate(photos, start=1)}
    used = {number: faces for number, faces in shown.items() if faces}
    if not used:
        raise InvalidInput(
            "photos",
            f"no face was found in any of the {len(photos)} photos",
            "Hand in a photo in which the face is seen from the front, whole, lit and in focus.",
        )
    return References(
        directions=np.stack(the_same_person(list(used.values()))),
        photos=tuple(used),
        without_face=tuple(number for number in shown if number not in used),
        with_several=tuple(number for number, faces in used.items() if len(faces) > 1),
    )


def the_same_person(photos: Sequence[Sequence[Direction]]) -> list[Direction]:
    """Of each photo the face that is most likely the subject's; who was picked at the request is not known here.

    The photo with the fewest faces is taken first, and of it the face that has the most alike ones in the others, the
    first where they are all the same; then of each other photo the face that is nearest to it.

    Args:
        photos: of each the directions of its faces, largest first; none is empty.
    """
    first = min(range(len(photos)), key=lambda number: len(photos[number]))
    others = [np.stack(faces) for number, faces in enumerate(photos) if number != first]
    support = [sum(float((faces @ face).max()) for faces in others) for face in photos[first]]
    chosen = photos[first][int(np.argmax(support))]
    return [faces[int(np.argmax([float(face @ chosen) for face in faces]))] for faces in photos]


def _directions(photo: bytes, number: int, finder: Finder, describer: Describer) -> list[Direction]:
    """Of the faces of one photo that are no passers-by, largest first."""
    try:
        image, _ = shrunk(decode(photo), ANALYSED_PX)
    except InvalidInput as error:
        raise InvalidInput(f"photos[{number}]", error.found, error.mend) from error
    faces = finder.find(image)
    widest = max((face.box[2] for face in faces), default=0.0)
    return [describer.describe(image, face.points) for face in faces if face.box[2] >= BACKGROUND * widest]
