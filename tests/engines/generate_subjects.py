"""Subjects for the generate tests: real photos in several framings, each with the face where it is."""

from dataclasses import dataclass

import cv2
import numpy as np

from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.boxes import Box
from shared.vision.codec import Image, encode_png
from tests.photos import astronaut

ASTRONAUT_FACE: Box = (178.3, 72.0, 93.6, 103.5)


@dataclass(frozen=True)
class Subject:
    """A photo and the face's box in it."""

    photo: Image
    face: Box

    def inputs(self) -> dict[str, tuple[bytes, ...]]:
        """What the engine is given."""
        x, y, width, height = self.face
        eyes = ((x + 0.28 * width, y + 0.3 * height), (x + 0.72 * width, y + 0.3 * height))
        nobody = (0.0,) * 128
        measure = FaceMeasure(
            photo=0, box=self.face, eyes=eyes, yaw=0.0, pitch=0.0, roll=0.0, sharpness=100.0, exposure=120.0,
            quality=1.0, embedding=nobody,
        )  # fmt: skip
        record = IdentityRecord(faces=(measure,), best=0, embedding=nobody, encoder="none")
        return {"photos": (encode_png(self.photo),), "identity": (record.to_json(),)}


def cropped(left: int, top: int, right: int, bottom: int, side: int) -> Subject:
    """Part of the astronaut's photo, enlarged to a width of `side` pixels."""
    part = astronaut()[top:bottom, left:right]
    factor = side / part.shape[1]
    photo = cv2.resize(part, (side, round(part.shape[0] * factor)), interpolation=cv2.INTER_CUBIC)
    x, y, width, height = ASTRONAUT_FACE
    face = ((x - left) * factor, (y - top) * factor, width * factor, height * factor)
    return Subject(np.asarray(photo, np.uint8), face)


SUBJECTS = {
    "half body": cropped(0, 0, 512, 512, 512),
    "half body, large": cropped(0, 0, 512, 512, 2048),
    "bust": cropped(80, 0, 370, 290, 640),
    "face off the middle": cropped(150, 0, 512, 362, 700),
    "head": cropped(125, 5, 325, 205, 512),
    "hair cut off above": cropped(140, 30, 310, 200, 800),
}
