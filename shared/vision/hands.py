"""Finding hands with MediaPipe Hands, whose weights ship inside its wheel."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from mediapipe.python.solutions.hands import Hands

from shared.vision.blend import Points
from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.quiet import quiet_native_logs
from shared.vision.weights import digests, mediapipe_weights

_ANALYSED_PX = 1024
_MOST_HANDS = 8
_MIN_SCORE = 0.5
_WRIST, _MIDDLE_FINGER_ROOT = 0, 9


@dataclass(frozen=True)
class Hand:
    """One hand. Pixels of the picture it was found in."""

    landmarks: Points
    """(21, 2) in MediaPipe's order: wrist, then four points a finger from the thumb to the little one."""
    score: float
    """Confidence in which hand it is, left or right, 0.5 to 1."""

    @property
    def palm_px(self) -> float:
        """From the wrist to the root of the middle finger: the hand's own measure of size."""
        return float(np.linalg.norm(self.landmarks[_MIDDLE_FINGER_ROOT] - self.landmarks[_WRIST]))


class HandFinder:
    """Finds up to eight hands. Keeps nothing from one picture to the next; used by one thread at a time.

    Source: Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020.
    """

    def __init__(self) -> None:
        self.models: Mapping[str, str] = digests(
            mediapipe_weights("palm_detection/palm_detection_full.tflite"),
            mediapipe_weights("hand_landmark/hand_landmark_full.tflite"),
        )
        with quiet_native_logs():
            self._finder = Hands(static_image_mode=True, max_num_hands=_MOST_HANDS, min_detection_confidence=_MIN_SCORE)
            self._finder.process(np.zeros((64, 64, 3), np.uint8))
        self._has_met_a_hand = False

    def find(self, image: Image) -> tuple[Hand, ...]:
        """The hands of a picture (uint8 RGB), largest first; none is an empty tuple."""
        if self._has_met_a_hand:
            return self._find(image)
        with quiet_native_logs():
            hands = self._find(image)
        self._has_met_a_hand = bool(hands)
        return hands

    def _find(self, image: Image) -> tuple[Hand, ...]:
        height, width = image.shape[:2]
        found = self._finder.process(shrunk(image, _ANALYSED_PX)[0])
        scale = np.array((width, height), np.float32)
        hands = [
            Hand(np.array([(p.x, p.y) for p in marks.landmark], np.float32) * scale, handed.classification[0].score)
            for marks, handed in zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True)
        ]
        return tuple(sorted(hands, key=lambda hand: -hand.palm_px))
