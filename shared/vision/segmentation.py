"""Where the person is: MediaPipe's selfie segmentation, looked at twice (whole picture, then the head close up)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import mediapipe
import numpy as np
from mediapipe.python.solutions import selfie_segmentation
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
_MODEL = Path(mediapipe.__file__).parent / "modules" / "selfie_segmentation" / "selfie_segmentation.tflite"
_HEAD_WINDOW = 4.0
_HEAD_REACH = 1.35
_HEAD_FEATHER = 0.22


class PersonSegmenter:
    """Finds the pixels of people.

    The network sees 256 x 256 pixels whatever it is given, so the head is analysed a second time, close up, where
    hair needs the resolution. The general model is used: on the close framings of portraits its outlines follow
    clothes and hand-held things better than those of the landscape model.
    """

    def __init__(self) -> None:
        self._network: Any = selfie_segmentation.SelfieSegmentation(model_selection=0)
        self.models: Mapping[str, str] = {_MODEL.name: hashlib.sha256(_MODEL.read_bytes()).hexdigest()}

    def probability(self, image: NDArray[np.uint8], face: Box | None = None) -> NDArray[np.float32]:
        """How likely each pixel shows a person.

        Args:
            image: RGB, (H, W, 3).
            face: x, y, width, height in pixels; where given, the head is analysed close up as well.

        Returns:
            (H, W) in [0, 1].
        """
        whole = self._look(image)
        if face is None:
            return whole
        x, y, width, height = face
        side = round(_HEAD_WINDOW * width)
        left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
        margin = side
        ringed = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        window = ringed[top + margin : top + margin + side, left + margin : left + margin + side]
        if window.shape[:2] != (side, side):
            return whole
        placed = np.zeros((ringed.shape[0], ringed.shape[1]), np.float32)
        placed[top + margin : top + margin + side, left + margin : left + margin + side] = self._look(window)
        close = placed[margin:-margin, margin:-margin]
        weight = _head_weight(image.shape[0], image.shape[1], face)
        return cast("NDArray[np.float32]", whole * (1 - weight) + close * weight)

    def _look(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        mask = self._network.process(np.ascontiguousarray(image)).segmentation_mask
        return cast("NDArray[np.float32]", np.clip(mask, 0.0, 1.0).astype(np.float32))


def _head_weight(rows: int, columns: int, face: Box) -> NDArray[np.float32]:
    """1 around the head, falling smoothly to 0 well inside the close-up window."""
    x, y, width, height = face
    across = np.abs(np.arange(columns, dtype=np.float32) - (x + width / 2)) / width
    down = np.abs(np.arange(rows, dtype=np.float32) - (y + height / 2)) / width
    reach = np.maximum(across[None, :], down[:, None])
    return cast("NDArray[np.float32]", (1 / (1 + np.exp((reach - _HEAD_REACH) / (_HEAD_FEATHER / 3)))))
