"""Whose face is given: one description of a subject's photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.swap.stage import OTHERS
from services.swap.swapping.swapper import Embedding
from shared.contracts.errors import InvalidInput, Permanent
from shared.vision.codec import decode
from shared.vision.networks.insight import Insight, InsightFace, distinct
from shared.vision.picks import BACKGROUND_FACE_RATIO, picks_of
from shared.vision.prominent import picked, prominent

_MEND = "Hand in a photo in which the subject's face is seen from the front, whole, lit and in focus."
_CROP = "Crop the photo to the person who is meant, and pick no face in it."


@dataclass(frozen=True, eq=False)
class Subject:
    """One person whose face is given."""

    embedding: Embedding
    """Raw: the mean of the photos'."""
    photos: int
    """How many say so."""
    without_face: tuple[str, ...]
    """The photos that show none, by their names in the request."""


def subjects_of(
    inputs: Mapping[str, Sequence[bytes]], faces: Sequence[int | None], finder: Insight, min_score: float
) -> tuple[Subject, ...]:
    """The subjects whose photos a step was given, the first at `photos` and others at `photos_2` to `photos_4`.

    Args:
        inputs: the step's.
        faces: which faces of `photos` are meant, one entry each, or none at all; of the others' it is the largest.
        finder: finds faces and describes them.
        min_score: below which it is no face.

    Raises:
        InvalidInput: a photo is no picture or shows fewer faces than the pick, no photo of a subject shows a face, or
            there is not one pick a photo.
        Permanent: the encoder gives what is no description.
    """
    picks = {"photos": picks_of(faces, len(inputs["photos"]), "the largest face is meant")}
    picks |= {name: (None,) * len(inputs[name]) for name in OTHERS if name in inputs}
    return tuple(subject_of(name, inputs[name], whose, finder, min_score) for name, whose in picks.items())


def subject_of(
    name: str, photos: Sequence[bytes], picks: Sequence[int | None], finder: Insight, min_score: float
) -> Subject:
    """The mean of the embeddings of one face of each photo: the one picked, else the largest.

    The mean is of the raw embeddings, as ReActor and facefusion have it for inswapper: their lengths grow with how well
    a face is seen (Meng et al. 2021, "MagFace"), so that the better photos weigh more. Of one photo it is that photo's.

    Raises:
        InvalidInput: a photo is no picture or shows fewer faces than the pick, or none shows a face.
        Permanent: the encoder gives what is no description.
    """
    found: list[Embedding] = []
    without: list[str] = []
    for number, (photo, pick) in enumerate(zip(photos, picks, strict=True), start=1):
        field = f"{name}[{number}]"
        try:
            faces = finder.find(decode(photo), min_score=min_score)
        except InvalidInput as error:
            raise InvalidInput(field, error.found, error.mend) from error
        check(faces)
        if faces:
            found.append(_meant(faces, pick, number).embedding)
        else:
            without.append(field)
    if not found:
        raise InvalidInput(", ".join(without) or name, "no face was found", _MEND)
    return Subject(np.mean(found, axis=0, dtype=np.float32), len(found), tuple(without))


def _meant(faces: Sequence[InsightFace], pick: int | None, photo: int) -> InsightFace:
    """Of the faces of photos[photo], largest first."""
    if pick is None:
        return faces[0]
    try:
        return picked(prominent(distinct(faces), BACKGROUND_FACE_RATIO), pick, photo)
    except InvalidInput as error:  # whoever encoded the identity saw that many: another pick would be another person
        raise InvalidInput(f"photos[{photo}]", f"{error.found} to the swapper's encoder", _CROP) from error


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
