"""What the GPU engine's networks see in a picture, before anyone judges it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.qa.cosine import consensus, likeness
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
    hands: HandFinder | None
    """None: hands are not looked for."""


def observe(image: Image, references: References, eyes: Eyes, same_person_cosine: float) -> Observation:
    """Measure a picture (uint8 RGB): faces are found on a copy of at most 1024 pixels, and described from the whole."""
    reduced, factor = shrunk(image, ANALYSED_PX)
    middle = consensus(references.directions)

    def observed(face: FoundFace) -> FaceObserved:
        points = (face.points + 0.5) / factor - 0.5  # pixels' middles stay middles
        direction = eyes.describer.describe(image, points).astype(np.float64)
        each = references.directions @ direction
        whole = min(1.0, float(middle @ direction))  # rounding leaves one that is the same a little above
        return FaceObserved(
            width_share=face.box[2] / reduced.shape[1],
            sharpness=sharpness(upright(reduced, face.points, TEMPLATE * (FACE_CROP_PX / SIDE_PX), FACE_CROP_PX)),
            distance=1.0 - whole,
            likeness=likeness(whole, same_person_cosine),
            best_likeness=likeness(float(each.max()), same_person_cosine),
            mean_likeness=float(np.mean([likeness(float(one), same_person_cosine) for one in each])),
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
