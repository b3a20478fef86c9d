"""Swapped faces sharpened by a restorer, before they are laid in or after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from shared.vision.boxes import Box, centre
from shared.vision.codec import Image
from shared.vision.networks.insight import InsightFace

BOOST_PX = 512
"""Side of the faces that restorers take."""

SAME_IOU = 0.5
SAME_CENTRE = 0.25
"""Of the larger of width and height, how far a face's middle may be from where it was."""


class Restores(Protocol):
    """What a face restorer does."""

    def restore(self, crops: Sequence[Image], weight: float) -> list[Image]:
        """Faces of 512 x 512 (uint8 RGB), made sharp; the weight is CodeFormer's, 0 quality to 1 fidelity."""


@dataclass(frozen=True, eq=False)
class Restoring:
    """A restorer, and how it is used."""

    restorer: Restores
    weight: float
    visibility: float
    """Opacity of what it makes."""


def face_boost(crop: Image, restoring: Restoring) -> Image:
    """A swapped crop sharpened before it is laid in, at 512 x 512.

    Source: ReActor's Face Boost: enlarged by bicubic interpolation, restored as it is aligned, blended.
    """
    shrinks = crop.shape[0] > BOOST_PX
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    large = np.asarray(cv2.resize(crop, (BOOST_PX, BOOST_PX), interpolation=interpolation), np.uint8)
    (restored,) = restoring.restorer.restore([large], restoring.weight)
    share = restoring.visibility
    return np.asarray(cv2.addWeighted(large, 1 - share, restored, share, 0), np.uint8)


def found_again(swapped: Sequence[InsightFace], faces: Sequence[InsightFace]) -> tuple[InsightFace, ...]:
    """Of the faces that a picture shows after the swap those that were swapped, in the order of `swapped`.

    A face is the same where the boxes' intersection is at least half of their union and the middle is nearer than a
    quarter of the box's longer side. Each is taken once. Source: ReActor.
    """
    left = list(faces)
    again: list[InsightFace] = []
    for one in swapped:
        same = [face for face in left if iou(one.box, face.box) >= SAME_IOU and _near(one.box, face.box)]
        if same:
            best = max(same, key=lambda face: iou(one.box, face.box))
            again.append(best)
            left.remove(best)
    return tuple(again)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def _near(one: Box, other: Box) -> bool:
    apart = np.subtract(centre(one), centre(other))
    return float(np.abs(apart).max()) <= SAME_CENTRE * max(one[2], one[3])
