"""Which of each photo's faces the caller means, made one entry a photo. No detector, for stages read this, too."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from shared.contracts.errors import InvalidInput

MOST_PHOTOS = 5

BACKGROUND_FACE_RATIO = 0.4
"""Faces narrower than this share of a photo's widest are passers-by and not counted, unless a step says otherwise."""

FacePick = Annotated[int, Field(ge=1, le=20)]
"""Which of a photo's faces is meant, counted from the left, the leftmost being 1."""

Picks = Annotated[tuple[FacePick | None, ...], Field(max_length=MOST_PHOTOS)]
"""One entry a photo, or none at all; None where the caller picks no face."""


def picks_of(faces: Sequence[int | None], photos: int, null_means: str) -> tuple[int | None, ...]:
    """One pick a photo, None where the caller made none.

    Args:
        faces: as the parameter has it: one entry a photo, or none at all.
        photos: how many there are.
        null_means: when an entry should be null, for the mend.

    Raises:
        InvalidInput: too few or too many photos, or not one entry for each.
    """
    if not 1 <= photos <= MOST_PHOTOS:
        raise InvalidInput("photos", f"{photos} photos", f"Hand in 1 to {MOST_PHOTOS} photos.")
    if faces and len(faces) != photos:
        raise InvalidInput(
            "faces",
            f"{len(faces)} entries for {photos} photo{'' if photos == 1 else 's'}",
            f"Give one entry a photo (null where {null_means}), or none at all.",
        )
    return tuple(faces) or (None,) * photos
