"""Whose face the picture is held against: one face of each of the subject's photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput
from shared.vision.boxes import shrunk
from shared.vision.codec import Image, decode
from shared.vision.networks.yunet import FoundFace
from shared.vision.picks import BACKGROUND_FACE_RATIO
from shared.vision.prominent import how_many, prominent

BACKGROUND = 0.5
"""Faces narrower than this share of a photo's widest are passers-by, where the caller picked none."""

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
    """Those that show none."""
    without_pick: tuple[int, ...]
    """Those that show fewer than the pick: who of them is meant is not known."""
    with_several: tuple[int, ...]
    """Of `photos` those that show several people, of whom the caller picked none."""


class _Shown(NamedTuple):
    """What a photo shows."""

    pick: int | None
    faces: Sequence[FoundFace]
    """That count."""
    meant: Sequence[Direction]
    """Of those who may be the subject."""


def references_of(
    photos: Sequence[bytes], picks: Sequence[int | None], finder: Finder, describer: Describer
) -> References:
    """One face of each photo: the one picked, else the one that is most likely the subject's.

    A photo that shows no face, or fewer than the pick, is left out.

    Args:
        photos: of the subject.
        picks: one entry a photo, counted from the left, the leftmost being 1; None where the caller picked none.
        finder: finds faces.
        describer: describes them.

    Raises:
        InvalidInput: a photo is no picture, or all are left out.
    """
    shown = {
        number: _shown(photo, pick, number, finder, describer)
        for number, (photo, pick) in enumerate(zip(photos, picks, strict=True), start=1)
    }
    used = {number: one.meant for number, one in shown.items() if one.meant}
    if not used:
        raise _no_reference(shown)
    return References(
        directions=np.stack(the_same_person(list(used.values()))),
        photos=tuple(used),
        without_face=tuple(number for number, one in shown.items() if not one.faces),
        without_pick=tuple(number for number, one in shown.items() if one.faces and not one.meant),
        with_several=tuple(number for number, meant in used.items() if len(meant) > 1),
    )


def the_same_person(photos: Sequence[Sequence[Direction]]) -> list[Direction]:
    """Of each photo the face that is most likely the subject's.

    The photo with the fewest faces is taken first, and of it the face that has the most alike ones in the others, the
    first where they are all the same; then of each other photo the face that is nearest to it.

    Args:
        photos: of each the directions of its faces, largest first; of one with a pick that alone; none is empty.
    """
    first = min(range(len(photos)), key=lambda number: len(photos[number]))
    others = [np.stack(faces) for number, faces in enumerate(photos) if number != first]
    support = [sum(float((faces @ face).max()) for faces in others) for face in photos[first]]
    chosen = photos[first][int(np.argmax(support))]
    return [faces[int(np.argmax([float(face @ chosen) for face in faces]))] for faces in photos]


def _shown(photo: bytes, pick: int | None, number: int, finder: Finder, describer: Describer) -> _Shown:
    """Of one photo. Without a pick all who are no passers-by may be meant, largest first."""
    try:
        image, _ = shrunk(decode(photo), ANALYSED_PX)
    except InvalidInput as error:
        raise InvalidInput(f"photos[{number}]", error.found, error.mend) from error
    found = finder.find(image)
    if pick is None:
        widest = max((face.box[2] for face in found), default=0.0)
        faces = meant = [face for face in found if face.box[2] >= BACKGROUND * widest]
    else:
        faces = list(prominent(found, BACKGROUND_FACE_RATIO))
        meant = faces[pick - 1 : pick]
    return _Shown(pick, faces, [describer.describe(image, face.points) for face in meant])


def _no_reference(shown: Mapping[int, _Shown]) -> InvalidInput:
    """The refusal of photos that are all left out."""
    fewer = [
        f"face {one.pick} was picked, but photos[{number}] shows {how_many(one.faces)} to the verdict's detector"
        for number, one in shown.items()
        if one.faces
    ]
    if not fewer:
        return InvalidInput(
            "photos",
            f"no face was found in any of the {len(shown)} photos",
            "Hand in a photo in which the face is seen from the front, whole, lit and in focus.",
        )
    blank = [f"photos[{number}] shows none" for number, one in shown.items() if not one.faces]
    return InvalidInput(
        "photos", "; ".join([*fewer, *blank]), "Crop the photos to the person who is meant, and pick no face in them."
    )
