"""One identity out of several photos."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.identity import strangers
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.embedding import ENCODER, Descriptor


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
    """Refuse photos of different people, by their descriptors' distance.

    Raises:
        InvalidInput: see `fuse`.
    """
    strangers.refuse_strangers(
        [face.photo + 1 for face in faces],
        _descriptors(faces),
        strangers.euclidean(max_distance),
        lambda majority: consensus([faces[index] for index in majority]),
    )


def _descriptors(faces: Sequence[FaceMeasure]) -> NDArray[np.float64]:
    return np.array([face.embedding for face in faces], np.float64)
