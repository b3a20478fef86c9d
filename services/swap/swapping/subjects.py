"""Whose face is given: one description of a subject's photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.swap.stage import OTHERS
from services.swap.swapping.swapper import Embedding
from shared.contracts.errors import InvalidInput, Permanent
from shared.vision.codec import decode
from shared.vision.networks.insight import Insight, InsightFace

_MEND = "Hand in a photo in which the subject's face is seen from the front, whole, lit and in focus."


@dataclass(frozen=True, eq=False)
class Subject:
    """One person whose face is given."""

    embedding: Embedding
    """Raw: the mean of the photos'."""
    photos: int
    """How many say so."""
    without_face: tuple[str, ...]
    """The photos that show none, by their names in the request."""


def subjects_of(inputs: Mapping[str, Sequence[bytes]], finder: Insight, min_score: float) -> tuple[Subject, ...]:
    """The subjects whose photos a step was given, the first at `photos` and others at `photos_2` to `photos_4`.

    Raises:
        InvalidInput: a photo is no picture, or no photo of a subject shows a face.
        Permanent: the encoder gives what is no description.
    """
    names = ["photos", *(name for name in OTHERS if name in inputs)]
    return tuple(subject_of(name, inputs[name], finder, min_score) for name in names)


def subject_of(name: str, photos: Sequence[bytes], finder: Insight, min_score: float) -> Subject:
    """The mean of the embeddings of each photo's largest face.

    The mean is of the raw embeddings, as ReActor and facefusion have it for inswapper: their lengths grow with how well
    a face is seen (Meng et al. 2021, "MagFace"), so that the better photos weigh more. Of one photo it is that photo's.

    Raises:
        InvalidInput: a photo is no picture, or none shows a face.
        Permanent: the encoder gives what is no description.
    """
    found: list[Embedding] = []
    without: list[str] = []
    for number, photo in enumerate(photos, start=1):
        field = f"{name}[{number}]"
        try:
            faces = finder.find(decode(photo), min_score=min_score)
        except InvalidInput as error:
            raise InvalidInput(field, error.found, error.mend) from error
        check(faces)
        if faces:
            found.append(faces[0].embedding)
        else:
            without.append(field)
    if not found:
        raise InvalidInput(", ".join(without) or name, "no face was found", _MEND)
    return Subject(np.mean(found, axis=0, dtype=np.float32), len(found), tuple(without))


def check(faces: Sequence[InsightFace]) -> None:
    """See that faces are described by numbers.

    Raises:
        Permanent: one is not.
    """
    for face in faces:
        if not np.isfinite(face.embedding).all() or not face.embedding.any():
            raise Permanent(
                "The encoder described a face by what is no number, or by nothing. Its file is damaged, or the device "
                "computes wrongly: `doctorgen models verify` says which."
            )
