"""Whose a face is: its embedding beside the subject's, so that other people's faces can be left alone."""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.vision.boxes import Box, centre, coincide, crop_square, square_around
from shared.vision.codec import Image
from shared.vision.networks.antelope import AntelopeFace

AROUND: Final = 2.0
"""Side of what the encoder is shown, of the box's longer side: the detector wants to see what a face stands in."""

SHOWN_PX: Final = 640
"""What it is shown as: the size that the detector was made for."""


class Faces(Protocol):
    """What finds and describes faces: `shared.vision.networks.antelope.Antelope`."""

    def find(self, image: Image) -> tuple[AntelopeFace, ...]:
        """The faces of a picture."""


def similarity(faces: Faces, image: Image, box: Box, subject: NDArray[np.float64]) -> float | None:
    """Cosine of the face in a box to the subject's embedding, -1 to 1.

    Args:
        faces: what describes them.
        image: uint8 RGB.
        box: of a face, in its pixels.
        subject: of unit length, as `consensus` makes it.

    Returns:
        None where it cannot be told: the encoder finds no face there, or one that has no direction.
    """
    square = square_around(box, AROUND)
    scale = SHOWN_PX / square[2]
    there = ((box[0] - square[0]) * scale, (box[1] - square[1]) * scale, box[2] * scale, box[3] * scale)
    found = [face for face in faces.find(crop_square(image, square, SHOWN_PX)) if coincide(face.box, there)]
    if not found:
        return None
    nearest = min(found, key=lambda face: np.hypot(*np.subtract(centre(face.box), centre(there))))
    vector = nearest.embedding.astype(np.float64)
    length = float(np.linalg.norm(vector))
    return float(vector @ subject / length) if np.isfinite(length) and length > 0 else None


def consensus(arcface: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The direction [512] of a subject's embeddings [photos, 512], each photo weighing the same; None of none."""
    vectors = arcface.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        return None
    mean = (vectors / lengths).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length, np.float64) if length > 0 else None
