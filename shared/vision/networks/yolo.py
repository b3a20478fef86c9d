"""YOLO detectors (hands, faces) that were exported to ONNX; letterboxing, decoding and suppression are ours.

Sources: ultralytics' predictor for detection, whose boxes, scores and order these are; Jocher et al. 2023, "Ultralytics
YOLO" (v8); Wang et al. 2024, "YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.onnx import OnnxResident, open_session
from shared.vision.boxes import Box
from shared.vision.codec import Image
from shared.vision.networks.letterbox import letterbox, place

SIDE_PX = 640
"""The longer side of the input, where the model takes any."""

STRIDE_PX = 32
"""What both sides of such an input must be multiples of."""

MOST = 300
"""Detections of one picture, at most."""

CLASS_APART_PX = 7680
"""How far the boxes of one class are moved from those of the next, so that they never overlap."""

BOX_ROWS = 4
"""x and y of the middle, width and height; the scores of the classes follow."""

END_TO_END_COLUMNS = 6
"""Left, top, right, bottom, score, class: of a model that suppresses doubles itself."""

MOST_END_TO_END = 1000
"""Rows of such an output, at most. With more it is another network's: YOLOv5 of one class has six columns, too."""

_EXPORT = "An export of YOLOv8 or YOLOv9 for detection is wanted, as `doctorgen models convert` makes it."


Pixels: TypeAlias = NDArray[np.float32]
"""[1, 3, height, width], RGB, 0 to 1."""

Rows: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Detection:
    """Something that was found.

    Attributes:
        box: within the picture, in its pixels.
        score: the detector's confidence, 0 to 1.
        label: the number of its class.
    """

    box: Box
    score: float
    label: int


class YoloDetector:
    """Finds what it was trained for. Keeps nothing from one picture to the next.

    Args:
        session: an onnxruntime session of the model.
        name: what people call the model, for errors.

    Raises:
        Permanent: the model's input or output is not that of a YOLO for detection.
    """

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name
        self._input, self._size = _input_of(session, name)

    def find(self, image: Image, min_score: float = 0.5, iou: float = 0.7) -> tuple[Detection, ...]:
        """What there is in a picture, best score first; none is an empty tuple.

        Args:
            image: uint8 RGB [H, W, 3].
            min_score: 0 to 1; what scores less, or just that, is not told.
            iou: 0 to 1; of two boxes of one class that share more than this of their joint area, only the better is
                told.

        Raises:
            Permanent: the model gave something that is no number, or no boxes and scores.
        """
        picture = (image.shape[0], image.shape[1])
        placement = place(picture, self._size or (SIDE_PX, SIDE_PX), None if self._size else STRIDE_PX)
        output = self._run(letterbox(image, placement).transpose(2, 0, 1)[None].astype(np.float32) / 255)
        _, rows, columns = output.shape
        if columns == END_TO_END_COLUMNS and rows <= MOST_END_TO_END:
            found = _ranked(output[0], min_score)
        elif BOX_ROWS < rows < columns:
            found = _suppressed(output[0], min_score, iou)
        else:
            raise Permanent(f"{self._name} gives {list(output.shape)}, and not [1, 4 + classes, anchors]. {_EXPORT}")
        boxes = placement.undo(found[:MOST, :4])
        return tuple(
            Detection((float(left), float(top), float(right - left), float(bottom - top)), float(score), int(label))
            for (left, top, right, bottom), (score, label) in zip(boxes, found[:MOST, 4:], strict=True)
            if right > left and bottom > top  # what lies in the padding is not in the picture
        )

    def _run(self, pixels: Pixels) -> Rows:
        """[1, ?, ?] of [1, 3, height, width]."""
        output = np.asarray(self._session.run(None, {self._input: pixels})[0])
        if output.dtype != np.float32 or output.ndim != 3 or output.shape[0] != 1:
            raise Permanent(
                f"{self._name} gives {output.dtype} {list(output.shape)}, and not float32 [1, 4 + classes, anchors]. "
                f"{_EXPORT}"
            )
        if not np.isfinite(output).all():
            raise Permanent(
                f"{self._name} gave numbers that are not finite. `doctorgen models verify` says whether its file is "
                f"damaged; if it is not, convert it anew."
            )
        return np.asarray(output, np.float32)


def _ranked(output: Rows, min_score: float) -> Rows:
    """Of an end-to-end model's detections [N, 6] those that score more, best first."""
    good = output[output[:, 4] > min_score]
    return good[np.argsort(-good[:, 4], kind="stable")]


def _suppressed(output: Rows, min_score: float, iou: float) -> Rows:
    """Detections [N, 6] as an end-to-end model gives them, best first.

    Args:
        output: [4 + classes, anchors]: x and y of the middle, width, height, and a score for each class.
        min_score: of the best class; what scores not more is left out.
        iou: as of `suppress`, among boxes of one class.
    """
    good = output[:, output[BOX_ROWS:].max(axis=0) > min_score].T
    middles, halves = good[:, :2], good[:, 2:4] / 2
    labels = good[:, BOX_ROWS:].argmax(axis=1)[:, None].astype(np.float32)
    scores = good[:, BOX_ROWS:].max(axis=1)
    corners = np.concatenate([middles - halves, middles + halves], axis=1)
    kept = suppress(corners + labels * CLASS_APART_PX, scores, iou)
    return np.asarray(np.concatenate([corners, scores[:, None], labels], axis=1)[kept], np.float32)


def suppress(corners: NDArray[np.float32], scores: NDArray[np.float32], iou: float) -> NDArray[np.int64]:
    """Of boxes that overlap, the best: non-maximum suppression, greedy.

    Args:
        corners: [N, 4], left, top, right, bottom.
        scores: [N].
        iou: intersection over union above which two boxes are of one thing.

    Returns:
        The numbers of those that are kept, best score first; of equal scores the earlier first.
    """
    left, top, right, bottom = corners.T
    areas = (right - left) * (bottom - top)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        width = np.minimum(right[best], right[order]) - np.maximum(left[best], left[order])
        height = np.minimum(bottom[best], bottom[order]) - np.maximum(top[best], top[order])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore"):  # two boxes without area: 0 / 0 is not more than anything
            order = order[~(shared / (areas[best] + areas[order] - shared) > iou)]
    return np.array(kept, np.int64)


def yolo_key(path: Path, device: str) -> str:
    """What a Residency calls the detector of a file on a device."""
    return f"{path} on {device}"


def yolo_resident(path: Path, device: str) -> OnnxResident[YoloDetector]:
    """The detector of a file as a Resident (shared.models.residency), to be borrowed as `yolo_key` says.

    Moving it to the device raises Permanent where the file is no such model, or the device cannot be used.
    """
    return OnnxResident(str(path), [path], lambda: YoloDetector(open_session(path, device), str(path)))


def _input_of(session: Any, name: str) -> tuple[str, tuple[int, int] | None]:
    """Name of the one input, and its height and width; None where it takes any."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise Permanent(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs, where a detector has one of each. {_EXPORT}"
        )
    shape, kind = inputs[0].shape, inputs[0].type
    if kind != "tensor(float)" or len(shape) != 4 or shape[1] != 3 or (isinstance(shape[0], int) and shape[0] != 1):
        raise Permanent(f"{name} takes {kind} {shape}, and not tensor(float) [1, 3, height, width]. {_EXPORT}")
    height, width = shape[2:]
    return inputs[0].name, (height, width) if isinstance(height, int) and isinstance(width, int) else None
