"""Where the person is: MediaPipe's selfie segmentation, looked at twice (whole picture, then the head close up)."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

from shared.vision.boxes import Box, centre
from shared.vision.codec import Image
from shared.vision.filters import Plane
from shared.vision.quiet import quiet_native_logs
from shared.vision.weights import digests, mediapipe_weights

_HEAD_WINDOW = 4.0
"""Side of the close-up, in face widths."""
_WORTH_A_CLOSER_LOOK = 0.8
"""Where the close-up is not smaller than this share of the picture, it shows no more, and misses context."""
_HEAD_REACH = 1.35
_HEAD_FEATHER = 0.07


class PersonSegmenter:
    """Finds the pixels of people.

    The network sees 256 x 256 pixels whatever it is given, so the head is analysed a second time, close up, where
    hair needs the resolution. The general model is used: on the close framings of portraits its outlines follow
    clothes and hand-held things better than those of the landscape model. Used by one thread at a time.
    """

    def __init__(self) -> None:
        self.models: Mapping[str, str] = digests(mediapipe_weights("selfie_segmentation/selfie_segmentation.tflite"))
        with quiet_native_logs():
            self._network: Any = SelfieSegmentation(model_selection=0)
            self._look(np.zeros((256, 256, 3), np.uint8))

    def probability(self, image: Image, face: Box | None = None) -> Plane:
        """How likely each pixel shows a person.

        Args:
            image: RGB, (H, W, 3).
            face: x, y, width, height in pixels; where given and small, the head is analysed close up as well.

        Returns:
            (H, W) in [0, 1].
        """
        whole = self._look(image)
        side = 0 if face is None else round(_HEAD_WINDOW * face[2])
        if face is None or side > _WORTH_A_CLOSER_LOOK * max(image.shape[:2]):
            return whole
        middle_x, middle_y = centre(face)
        left, top = round(middle_x + side / 2), round(middle_y + side / 2)
        ringed = np.asarray(cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REPLICATE), np.uint8)
        close = np.zeros(ringed.shape[:2], np.float32)
        window = (slice(top, top + side), slice(left, left + side))
        close[window] = self._look(ringed[window])
        weight = _head_weight(image.shape[0], image.shape[1], face)
        return np.asarray(whole * (1 - weight) + close[side:-side, side:-side] * weight, np.float32)

    def _look(self, image: Image) -> Plane:
        mask = self._network.process(np.ascontiguousarray(image)).segmentation_mask
        return np.asarray(np.clip(mask, 0.0, 1.0), np.float32)


def _head_weight(rows: int, columns: int, face: Box) -> Plane:
    """1 around the head, falling smoothly to 0 well inside the close-up window."""
    middle_x, middle_y = centre(face)
    across = np.abs(np.arange(columns) - middle_x) / face[2]
    down = np.abs(np.arange(rows) - middle_y) / face[2]
    reach = np.maximum(across[None, :], down[:, None])
    return np.asarray(1 / (1 + np.exp((reach - _HEAD_REACH) / _HEAD_FEATHER)), np.float32)
