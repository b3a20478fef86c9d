"""Which of a photo's faces is the subject's."""

from collections.abc import Sequence

from shared.contracts.errors import InvalidInput
from shared.vision.boxes import centre
from shared.vision.faces import Face


def choose_face(
    faces: Sequence[Face], pick: int | None, background_face_ratio: float, width_px: int, photo: int
) -> Face:
    """The one face a photo is about.

    Faces narrower than `background_face_ratio` of the widest are passers-by: neither counted nor chosen.

    Args:
        faces: what was found, any order.
        pick: which one is meant, counted from the left, the leftmost being 1; None: there must be only one.
        background_face_ratio: share of the widest face's width, 0 to 1.
        width_px: the photo's width.
        photo: the photo's position as the caller counts, from 1.

    Raises:
        InvalidInput: no face; several and none picked; or fewer than the pick.
    """
    widest = max((face.box[2] for face in faces), default=0.0)
    prominent = [face for face in faces if face.box[2] >= background_face_ratio * widest]
    prominent.sort(key=lambda face: centre(face.box))
    if not prominent:
        raise InvalidInput(
            f"photos[{photo}]",
            "no face was found",
            "Use a photo in which the face is seen from the front, whole, lit and in focus.",
        )
    if pick is None and len(prominent) == 1:
        return prominent[0]
    if pick is None:
        raise InvalidInput(
            f"photos[{photo}]",
            f"{len(prominent)} faces were found, {_whereabouts(prominent, width_px)}",
            "Say which one is meant, counted from the left (1 is the leftmost), or crop the photo to one person.",
        )
    if pick > len(prominent):
        raise InvalidInput(
            f"faces[{photo}]",
            f"face {pick} was picked, but photos[{photo}] shows {_count(len(prominent))}"
            f" ({_whereabouts(prominent, width_px)})",
            f"Pick a face from 1 (the leftmost) to {len(prominent)}.",
        )
    return prominent[pick - 1]


def _count(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces} faces"


def _whereabouts(faces: Sequence[Face], width_px: int) -> str:
    shares = [f"{number}: {100 * centre(face.box)[0] / width_px:.0f} %" for number, face in enumerate(faces, start=1)]
    return f"from the left edge at {', '.join(shares)} of the width"
