"""What the GPU engine's networks see in a picture, before anyone judges it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.qa.cosine import likeness
from services.qa.observation import ANALYSED_PX, FACE_CROP_PX, FaceObserved, Marks, Observation, observation_of
from services.qa.references import Describer, Finder, References
from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.measures import blockiness, clipped_share, seam, sharpness
from shared.vision.networks.arcface import upright
from shared.vision.networks.crop512 import SIDE_PX, TEMPLATE
from shared.vision.networks.yolo import Detection
from shared.vision.networks.yunet import FoundFace

BLOCKS_PX = (8, 16)
"""JPEG's blocks and those that FLUX's autoencoder makes a picture of; and those that its transformer paints."""


class HandFinder(Protocol):
    """What finds hands."""

    def find(self, image: Image) -> Sequence[Detection]:
        """Those of a picture (uint8 RGB)."""


@dataclass(frozen=True)
class Eyes:
    """The networks."""

    finder: Finder
    describer: Describer
    encoder: str
    """The describer's name."""
    hands: HandFinder | None
    """None: hands are not looked for."""


def observe(image: Image, references: References, eyes: Eyes, same_person_cosine: float) -> Observation:
    """Measure a picture (uint8 RGB): faces are found on a copy of at most 1024 pixels, and described from the whole.

    A face's likeness is the mean of those to each of the photos. As a likeness grows more slowly above the boundary of
    the same person than below, one photo that it is very near to makes up for few others; and the boundary stays that
    of a pair of faces, however many photos there are. With the photos' mean direction it would not: that is nearer to
    any face that has to do with one of them.
    """
    reduced, factor = shrunk(image, ANALYSED_PX)

    def observed(face: FoundFace) -> FaceObserved:
        points = (face.points + 0.5) / factor - 0.5  # pixels' middles stay middles
        direction = eyes.describer.describe(image, points).astype(np.float64)
        cosines = np.minimum(references.directions @ direction, 1.0)  # rounding leaves the same a little above
        each = tuple(likeness(float(cosine), same_person_cosine) for cosine in cosines)
        return FaceObserved(
            width_share=face.box[2] / reduced.shape[1],
            sharpness=sharpness(upright(reduced, face.points, TEMPLATE * (FACE_CROP_PX / SIDE_PX), FACE_CROP_PX)),
            distance=1.0 - float(cosines.mean()),
            likeness=float(np.mean(each)),
            best_likeness=max(each),
            by_photo=each,
        )

    return observation_of(image, reduced, tuple(observed(face) for face in eyes.finder.find(reduced)))


def marks_of(image: Image, eyes: Eyes) -> Marks:
    """The artefacts of a picture (uint8 RGB), and how many hands it shows.

    Blocks are looked for in the picture and in its copy of at most 1024 pixels: those of a picture that was enlarged
    four times are found there. Clipping and straight lines are measured on the picture itself.
    """
    reduced, _ = shrunk(image, ANALYSED_PX)
    return Marks(
        hands=None if eyes.hands is None else len(eyes.hands.find(reduced)),
        blockiness=max(blockiness(one, px) for one in (image, reduced) for px in BLOCKS_PX),
        clipped=clipped_share(image),
        seam=seam(image),
    )
