"""Which of a photo's faces is the subject's."""

from collections.abc import Sequence

from shared.contracts.errors import InvalidInput
from shared.vision.boxes import centre
from shared.vision.face import Face
from shared.vision.prominent import how_many, picked, prominent


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
    counted = prominent(faces, background_face_ratio)
    if not counted:
        raise InvalidInput(
            f"photos[{photo}]",
            "no face was found",
            "Use a photo in which the face is seen from the front, whole, lit and in focus.",
        )
    if pick is not None:
        return picked(counted, pick, photo, f" ({_whereabouts(counted, width_px)})")
    if len(counted) == 1:
        return counted[0]
    raise InvalidInput(
        f"photos[{photo}]",
        f"{how_many(counted)} were found, {_whereabouts(counted, width_px)}",
        "Say which one is meant, counted from the left (1 is the leftmost), or crop the photo to one person.",
    )


def _whereabouts(faces: Sequence[Face], width_px: int) -> str:
    shares = [f"{number}: {100 * centre(face.box)[0] / width_px:.0f} %" for number, face in enumerate(faces, start=1)]
    return f"from the left edge at {', '.join(shares)} of the width"
