"""One identity out of several photos."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.embedding import ENCODER, Descriptor, distance

_MEND = "Leave out every photo of another person, and submit again."


def fuse(faces: Sequence[FaceMeasure], max_distance: float) -> IdentityRecord:
    """Join the photos' faces into one identity, whose best face has the highest quality (the first, where several do).

    Raises:
        InvalidInput: the photos show more than one person; names those that differ from the rest, or all of them where
            no majority agrees.
    """
    refuse_strangers(faces, max_distance)
    best = max(range(len(faces)), key=lambda index: faces[index].quality)
    return IdentityRecord(faces=tuple(faces), best=best, embedding=tuple(consensus(faces).tolist()), encoder=ENCODER)


def consensus(faces: Sequence[FaceMeasure]) -> Descriptor:
    """The quality-weighted mean of the faces' descriptors, (128,); the plain mean where no face has any quality."""
    weights = np.array([face.quality for face in faces])
    if not weights.any():
        weights = np.ones(len(faces))
    return np.asarray(np.average(_descriptors(faces), axis=0, weights=weights), np.float64)


def refuse_strangers(faces: Sequence[FaceMeasure], max_distance: float) -> None:
    """Refuse photos of different people.

    The photo with most others within `max_distance` of it (of equals, the one nearest to all) and those others are the
    majority; a stranger is who lies farther than `max_distance` from the consensus of the majority.

    Raises:
        InvalidInput: see `fuse`.
    """
    descriptors = _descriptors(faces)
    apart = np.linalg.norm(descriptors[:, None] - descriptors[None], axis=2)
    near = apart <= max_distance
    medoid = min(range(len(faces)), key=lambda index: (-near[index].sum(), apart[index].sum()))
    majority = [face for face, is_near in zip(faces, near[medoid], strict=True) if is_near]
    if 2 * len(majority) <= len(faces):
        raise InvalidInput(
            _name(faces),
            f"these photos show different people, at distances up to {apart.max():.2f} (up to {max_distance:.2f} is the"
            " same person)",
            _MEND,
        )
    middle = consensus(majority)
    strangers = [face for face in faces if distance(face.embedding, middle) > max_distance]
    if strangers:
        shown = ", ".join(f"{distance(face.embedding, middle):.2f}" for face in strangers)
        verb = "shows" if len(strangers) == 1 else "show"
        raise InvalidInput(
            _name(strangers),
            f"{verb} another person than the rest, distance {shown} (up to {max_distance:.2f} is the same person)",
            _MEND,
        )


def _descriptors(faces: Sequence[FaceMeasure]) -> NDArray[np.float64]:
    return np.array([face.embedding for face in faces], np.float64)


def _name(faces: Sequence[FaceMeasure]) -> str:
    return ", ".join(f"photos[{face.photo + 1}]" for face in faces)
