"""Whose face goes where: rules that a request states, or likeness where it states none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from services.swap.stage import Target
from services.swap.swapping.swapper import Embedding
from shared.contracts.errors import InvalidInput
from shared.vision.boxes import centre
from shared.vision.networks.insight import InsightFace

Order = Callable[[InsightFace], tuple[float, ...]]

ORDERS: dict[str, Order] = {
    "largest_first": lambda face: (-face.area, *face.box),
    "smallest_first": lambda face: (face.area, *face.box),
    "left_to_right": lambda face: (centre(face.box)[0], *face.box),
    "right_to_left": lambda face: (-centre(face.box)[0], *face.box),
    "top_to_bottom": lambda face: (centre(face.box)[1], *face.box),
}


@dataclass(frozen=True)
class Choice:
    """What was decided for one subject."""

    subject: int
    """Counted from 1."""
    face: InsightFace | None
    """None where no face is theirs."""
    similarity: float | None = None
    """Cosine of the subject's and the face's embeddings."""
    why_not: str = ""
    """Why there is no face."""


def choose(
    faces: Sequence[InsightFace], subjects: Sequence[Embedding], targets: Sequence[Target], size: tuple[int, int]
) -> tuple[Choice, ...]:
    """A face for each subject, in the subjects' order.

    Without targets a single subject gets the largest face; several are assigned to faces so that the sum of the cosines
    is largest, and where there are fewer faces than subjects those that are left go without.

    Args:
        faces: of the picture, largest first.
        subjects: their embeddings.
        targets: none, or one for each subject.
        size: height and width of the picture.

    Raises:
        InvalidInput: there are other numbers of targets and of subjects, two subjects get one face, or a gender is
            asked of faces of which none is known.
    """
    if not faces:
        return tuple(Choice(number, None, why_not="the picture shows no face") for number in _numbers(subjects))
    if not targets:
        return _by_likeness(faces, subjects) if len(subjects) > 1 else (_chosen(1, faces, subjects[0], Target(), size),)
    if len(targets) != len(subjects):
        raise InvalidInput(
            "targets",
            f"{len(targets)} of them for {len(subjects)} subject{'s' if len(subjects) > 1 else ''}",
            "Name one for each subject, or none to have subjects assigned by likeness.",
        )
    pairs = enumerate(zip(subjects, targets, strict=True), start=1)
    choices = tuple(_chosen(number, faces, subject, target, size) for number, (subject, target) in pairs)
    for later, choice in enumerate(choices):
        for earlier in choices[:later]:
            if choice.face is not None and choice.face is earlier.face:
                raise InvalidInput(
                    f"targets[{choice.subject}]",
                    f"it means the face that targets[{earlier.subject}] means",
                    "Let each subject's target mean another face.",
                )
    return choices


def _numbers(subjects: Sequence[Embedding]) -> range:
    return range(1, len(subjects) + 1)


def similarity(one: Embedding, other: Embedding) -> float:
    """The cosine of two embeddings."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def _chosen(
    number: int, faces: Sequence[InsightFace], subject: Embedding, target: Target, size: tuple[int, int]
) -> Choice:
    """One subject's face by its target. What is said beyond the choice is checked after it: no other face is tried."""
    face = _meant(faces, subject, target, size)
    if face is None:
        return Choice(number, None, why_not=f"face {target.index} was asked for and there are {len(faces)}")
    alike = similarity(subject, face.embedding)
    if target.gender != "any":
        if face.gender is None:
            raise InvalidInput(
                f"targets[{number}].gender", "the encoder tells nobody's sex", "Name an encoder with genderage."
            )
        if face.gender != target.gender:
            return Choice(number, None, alike, f"the chosen face is {face.gender}, and {target.gender} was asked for")
    if alike < target.min_similarity:
        return Choice(
            number, None, alike, f"the chosen face's similarity {alike:.3f} is below {target.min_similarity:.3f}"
        )
    return Choice(number, face, alike)


def _meant(
    faces: Sequence[InsightFace], subject: Embedding, target: Target, size: tuple[int, int]
) -> InsightFace | None:
    if target.by == "index":
        ordered = sorted(faces, key=ORDERS[target.order])
        return ordered[target.index - 1] if target.index <= len(ordered) else None
    if target.by == "position":
        height, width = size
        place = np.array((target.x * width, target.y * height))
        return min(faces, key=lambda face: (float(np.linalg.norm(np.array(centre(face.box)) - place)), face.box))
    if target.by == "likeness":
        return max(faces, key=lambda face: similarity(subject, face.embedding))
    return min(faces, key=ORDERS["largest_first"])


def _by_likeness(faces: Sequence[InsightFace], subjects: Sequence[Embedding]) -> tuple[Choice, ...]:
    """The assignment of the largest sum of cosines (the Hungarian method)."""
    alike: NDArray[np.float64] = np.array([[similarity(one, face.embedding) for face in faces] for one in subjects])
    pairs = dict(zip(*(side.tolist() for side in linear_sum_assignment(alike, maximize=True)), strict=True))
    return tuple(
        Choice(row + 1, faces[pairs[row]], float(alike[row, pairs[row]]))
        if row in pairs
        else Choice(row + 1, None, why_not=f"the picture shows {len(faces)} faces, and others are more alike to them")
        for row in range(len(subjects))
    )
