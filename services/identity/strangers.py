"""Whether photos show one person: which of them the most others agree with, and which lie apart from those."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import InvalidInput

Vectors = NDArray[np.floating[Any]]

_MEND = "Leave out every photo of another person, and submit again."


class Measure(NamedTuple):
    """How far apart two faces are, and how that is told."""

    between: Callable[[Vectors, Vectors], Vectors]
    """Of vectors (..., D) and (..., D), row by row; larger is farther apart."""
    limit: float
    """Up to which it is the same person."""
    figure: Callable[[float], float]
    """What people know it by."""
    one: str
    """What the figure is called."""
    worst: str
    """And before the figure of those that are farthest apart."""
    bound: str
    """Which figures are the same person's."""


def euclidean(max_distance: float) -> Measure:
    """The distance of the vectors' ends, for dlib's descriptors."""
    return Measure(
        lambda a, b: np.linalg.norm(a - b, axis=-1),
        max_distance,
        lambda apart: apart,
        "distance",
        "at distances up to",
        f"up to {max_distance:.2f} is the same person",
    )


def cosine(min_similarity: float) -> Measure:
    """The cosine of the vectors' angle, for ArcFace's embeddings, whose length says nothing of the person."""
    return Measure(
        lambda a, b: 1.0 - (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)),
        1.0 - min_similarity,
        lambda apart: 1.0 - apart,
        "similarity",
        "with similarities down to",
        f"{min_similarity:.2f} and above is the same person",
    )


def refuse_strangers(
    photos: Sequence[int],
    vectors: Vectors,
    measure: Measure,
    consensus: Callable[[Sequence[int]], Vectors],
) -> None:
    """Refuse photos of different people.

    The photo with most others within the limit of it (of equals, the one nearest to all) and those others are the
    majority; a stranger is who lies beyond the limit from the consensus of the majority.

    Args:
        photos: their positions as the caller counts.
        vectors: (N, D), what describes the face of each.
        measure: how far apart two are.
        consensus: of the rows of these indices, (D,).

    Raises:
        InvalidInput: the photos show more than one person; names those that differ from the rest, or all of them where
            no majority agrees.
    """
    apart = measure.between(vectors[:, None], vectors[None])
    near = apart <= measure.limit
    medoid = min(range(len(photos)), key=lambda index: (-near[index].sum(), apart[index].sum()))
    majority = [index for index in range(len(photos)) if near[medoid, index]]
    if 2 * len(majority) <= len(photos):
        raise InvalidInput(
            _name(photos),
            f"these photos show different people, {measure.worst} {measure.figure(apart.max()):.2f} ({measure.bound})",
            _MEND,
        )
    away = measure.between(vectors, consensus(majority))
    strangers = [index for index in range(len(photos)) if away[index] > measure.limit]
    if strangers:
        shown = ", ".join(f"{measure.figure(away[index]):.2f}" for index in strangers)
        verb = "shows" if len(strangers) == 1 else "show"
        raise InvalidInput(
            _name([photos[index] for index in strangers]),
            f"{verb} another person than the rest, {measure.one} {shown} ({measure.bound})",
            _MEND,
        )


def _name(photos: Sequence[int]) -> str:
    return ", ".join(f"photos[{photo}]" for photo in photos)
