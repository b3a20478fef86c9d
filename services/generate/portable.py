"""The portable engine of generate.text_to_image: the subject, matted from their own photo, in a painted scene."""

from collections.abc import Mapping

import cv2
import numpy as np

from services.generate.compose import compose
from services.generate.paint import paint
from services.generate.relight import Match
from services.generate.stage import ComposeParams
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import IdentityRecord
from shared.vision.boxes import Box
from shared.vision.codec import Image, decode
from shared.vision.matting import matte
from shared.vision.output import image_output
from shared.vision.segmentation import PersonSegmenter
from shared.worker.operation import Outcome, Work

_LARGEST_SHARE = 0.25
_REACH_SIDE, _REACH_UP, _REACH_DOWN = 4.6, 3.6, 5.6
"""How far the frame can show the photo from the face's middle, in face widths, at the smallest face share."""


class PortableGenerate:
    """Cuts the subject from the best photo and composes them into the scenario's scene."""

    def __init__(self) -> None:
        self._segmenter = PersonSegmenter()

    def models(self, _: ComposeParams) -> Mapping[str, str]:
        return self._segmenter.models

    def run(self, work: Work[ComposeParams]) -> Outcome:
        params = work.params
        photo, face = subject(work.inputs["photos"], IdentityRecord.from_json(work.one("identity"), "identity"))
        photo, face = relevant(photo, face, params.width)
        work.progress(0.1)
        cut_out = matte(photo, self._segmenter.probability(photo, face), face)
        work.progress(0.5)
        scene = paint(params.backdrop, params.width, params.height, work.seed)
        work.progress(0.8)
        match = Match(params.exposure_match, params.colour_match, params.direction_match, params.light_wrap)
        made = compose(
            cut_out, face, scene, params.framing, params.backdrop.finish, match, params.restoration, work.seed
        )
        return Outcome({"image": image_output(made.image, "intermediate")}, made.facts)


def subject(photos: tuple[bytes, ...], identity: IdentityRecord) -> tuple[Image, Box]:
    """The best photo and the face's box in it.

    Raises:
        InvalidInput: the identity names a photo that is not there, or a face outside it.
    """
    best = identity.faces[identity.best]
    if best.photo >= len(photos):
        raise InvalidInput(
            "photos", f"{len(photos)} of them, and the identity names number {best.photo + 1}",
            "Hand in the photos from which the identity was made.",
        )  # fmt: skip
    photo = decode(photos[best.photo])
    x, y, width, height = best.box
    rows, columns = photo.shape[:2]
    if not (0 <= x + width / 2 < columns and 0 <= y + height / 2 < rows and width >= 8):
        raise InvalidInput(
            "identity", f"a face at {best.box} in a photo of {columns} x {rows} pixels",
            "Hand in the photos from which the identity was made.",
        )  # fmt: skip
    return photo, best.box


def relevant(photo: Image, face: Box, frame_width: int) -> tuple[Image, Box]:
    """The part of the photo that any framing can show, not larger than the frame needs it, and the face's box there."""
    x, y, width, height = face
    middle_x, middle_y = x + width / 2, y + height / 2
    left, top = max(0, round(middle_x - _REACH_SIDE * width)), max(0, round(middle_y - _REACH_UP * width))
    right, bottom = round(middle_x + _REACH_SIDE * width), round(middle_y + _REACH_DOWN * width)
    part = photo[top:bottom, left:right]
    factor = min(1.0, _LARGEST_SHARE * frame_width / width)
    if factor < 1:
        size = (round(part.shape[1] * factor), round(part.shape[0] * factor))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return part, ((x - left) * factor, (y - top) * factor, width * factor, height * factor)
