"""Recognisers of ArcFace's kind: an upright face of 112 x 112 becomes a direction in many dimensions."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.onnx import OnnxResident, open_session
from shared.vision.boxes import shrunk
from shared.vision.codec import Image

SIDE_PX = 112

TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where eyes, nose and mouth corners come to lie, in pixels (x, y); each pair the picture's left one first.

Source: InsightFace, `face_align.arcface_dst`.
"""

FIRST_NODES = 8
"""Of a graph, among which insightface looks for what brings levels to the network's range."""

Direction = NDArray[np.float32]
"""An embedding of unit length, (D,); compared by cosine."""


class Recogniser:
    """Describes faces. Keeps nothing from one to the next; used by one thread at a time.

    Source: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (2018). Pixels go in as RGB,
    (x - 127.5) / 127.5, or as they are into a graph that does that by itself (MXNet's exports), as insightface has it.

    Args:
        path: of the ONNX file.
        device: `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        Permanent: it is no such model, or onnxruntime cannot use the device.
    """

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._session: Any = open_session(path, device)
        taken = self._session.get_inputs()
        if len(taken) != 1 or list(taken[0].shape[1:]) != [3, SIDE_PX, SIDE_PX]:
            told = ", ".join(f"{one.name} {one.shape}" for one in taken)
            raise Permanent(f"{path} is no recogniser: it is to take one input of 3 x 112 x 112, and takes {told}.")
        self._input: str = taken[0].name
        self._middle, self._half = (0.0, 1.0) if _normalises(path) else (127.5, 127.5)

    def describe(self, image: Image, points: NDArray[np.float64]) -> Direction:
        """The direction of one face of a picture.

        Args:
            image: uint8 RGB, of any size; the larger the face the better.
            points: (5, 2) in pixels of it, in the template's order.

        Raises:
            Permanent: the model gave numbers that are none, or no direction.
        """
        crop = recognised_crop(image, points)
        pixels = (crop.astype(np.float32).transpose(2, 0, 1)[None] - self._middle) / self._half
        vector = np.asarray(self._session.run(None, {self._input: pixels})[0], np.float64).ravel()
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0.0:
            raise Permanent(
                f"{self._path} describes a face in numbers of length {length:g}, which have no direction. "
                f"`doctorgen models verify {self._path.parent.name}` says whether it is damaged."
            )
        return np.asarray(vector / length, np.float32)


def _normalises(path: Path) -> bool:
    """Whether a graph takes levels from 0 to 255: one of its first nodes subtracts, and one multiplies.

    Source: insightface, model_zoo/arcface_onnx.py.
    """
    first = [node.name for node in onnx.load(str(path), load_external_data=False).graph.node[:FIRST_NODES]]
    return all(any(name.startswith(how) for name in first) for how in (("Sub", "_minus"), ("Mul", "_mul")))


def recogniser_key(path: Path, device: str) -> str:
    """What a Residency knows it by."""
    return f"{path} as a recogniser on {device}"


def recogniser_resident(path: Path, device: str) -> OnnxResident[Recogniser]:
    """It as a Residency lends it."""
    return OnnxResident(f"recogniser {path.parent.name}", [path], lambda: Recogniser(path, device))


def recognised_crop(image: Image, points: NDArray[np.float64]) -> Image:
    """A face as recognisers are shown it: 112 x 112, black beyond the picture.

    The same as InsightFace's `norm_crop` for faces up to twice that size; larger ones are reduced first, which it does
    not do.
    """
    return upright(image, points, TEMPLATE, SIDE_PX, oversampled=2.0, border=cv2.BORDER_CONSTANT)


def similarity(points: NDArray[np.float64], template: NDArray[np.float64]) -> NDArray[np.float64]:
    """The turn, scale and shift that bring points nearest to a template by least squares: (2, 3).

    The same as Umeyama's without mirroring; linear in a, b and the shift, where the matrix is [[a, -b], [b, a]].
    """
    x, y = points.T
    one, none = np.ones_like(x), np.zeros_like(x)
    across, down = np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)
    (a, b, right, below), *_ = np.linalg.lstsq(np.concatenate([across, down]), template.T.ravel(), rcond=None)
    return np.array([[a, -b, right], [b, a, below]])


def upright(
    image: Image,
    points: NDArray[np.float64],
    template: NDArray[np.float64],
    side_px: int,
    oversampled: float = 1.0,
    border: int = cv2.BORDER_REPLICATE,
) -> Image:
    """A face brought to a template in a square of `side_px`.

    A face that is larger than in the square is reduced by area averaging first, for warping alone would alias.

    Args:
        image: uint8 RGB.
        points: (5, 2) in pixels of it.
        template: (5, 2) in pixels of the square.
        side_px: of the square.
        oversampled: how many times as large as in the square it may still be when it is warped.
        border: what lies beyond the picture, as OpenCV names it.
    """
    matrix = similarity(points, template)
    scale = float(np.hypot(*matrix[:, 0]))
    longest = round(max(image.shape[:2]) * min(1.0, oversampled * scale))
    reduced, factor = shrunk(image, max(1, longest))
    matrix[:, :2] /= factor
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * (1 - factor) / 2  # pixels' middles stay middles
    interpolation = cv2.INTER_LINEAR if oversampled > 1.0 else cv2.INTER_CUBIC
    warped = cv2.warpAffine(reduced, matrix, (side_px, side_px), flags=interpolation, borderMode=border)
    return np.asarray(warped, np.uint8)
