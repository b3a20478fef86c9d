"""Counting a photo's faces as the caller does who picks one: from the left, passers-by left out."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from shared.contracts.errors import InvalidInput
from shared.vision.boxes import Box, centre


class Boxed(Protocol):
    """A face, whoever found it."""

    @property
    def box(self) -> Box:
        """Pixels of the photo."""


FaceT = TypeVar("FaceT", bound=Boxed)


def prominent(faces: Sequence[FaceT], background_face_ratio: float) -> tuple[FaceT, ...]:
    """The faces that count, from the left; none of none.

    Args:
        faces: what was found, any order, each once.
        background_face_ratio: share of the widest face's width, 0 to 1; narrower ones are passers-by.
    """
    least = background_face_ratio * max((face.box[2] for face in faces), default=0.0)
    return tuple(sorted((face for face in faces if face.box[2] >= least), key=lambda face: centre(face.box)))


def picked(counted: Sequence[FaceT], pick: int, photo: int, where: str = "") -> FaceT:
    """The face that the caller picked.

    Args:
        counted: the photo's faces as `prominent` gives them, at least one.
        pick: which one, the leftmost being 1.
        photo: the photo's position as the caller counts, from 1.
        where: what the refusal adds to how many there are.

    Raises:
        InvalidInput: there are fewer; its field is `faces[photo]`.
    """
    if pick > len(counted):
        raise InvalidInput(
            f"faces[{photo}]",
            f"face {pick} was picked, but photos[{photo}] shows {how_many(counted)}{where}",
            f"Pick a face from 1 (the leftmost) to {len(counted)}.",
        )
    return counted[pick - 1]


def how_many(faces: Sequence[object]) -> str:
    """In words."""
    return f"{len(faces)} face{'' if len(faces) == 1 else 's'}"
