"""Networks that give a face another's looks: what each wants to be shown, read off its ONNX file.

Another swapper of these kinds is a file in a folder of one's own. One of another kind is a line in `KINDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from services.swap.swapping.align import Alignment
from shared.contracts.errors import Permanent
from shared.models.onnx import open_session
from shared.vision.codec import Image

Embedding = NDArray[np.float32]
"""(512,), raw as ArcFace's network gives it."""

KindName = Literal["inswapper", "hyperswap"]


@dataclass(frozen=True)
class Kind:
    """How networks of one family are used.

    Pixels go in as (level / 255 - mean) / deviation in RGB, and come out the same way.
    """

    name: KindName
    side_px: int
    outputs: int
    """How many the file has: a mask beside the picture is not used."""
    mean: float
    deviation: float
    has_matrix: bool
    """Whether a source's embedding goes through a matrix first, which is the file's last constant."""


KINDS = (
    Kind("inswapper", 128, outputs=1, mean=0.0, deviation=1.0, has_matrix=True),
    Kind("hyperswap", 256, outputs=2, mean=0.5, deviation=0.5, has_matrix=False),
)
"""insightface's INSwapper; facefusion's hyperswap, as facefusion runs it."""


@dataclass(frozen=True, eq=False)
class Swapper:
    """A swapper on its device. Used by one thread at a time."""

    name: str
    kind: Kind
    session: Any
    """An onnxruntime.InferenceSession, or what runs like one."""
    target: str
    """The input that takes faces, [N, 3, side, side]."""
    source: str
    """The input that takes a description, [N, 512]."""
    batch: int | None
    """How many faces at once; None is any number."""
    matrix: NDArray[np.float32] | None = None
    """(512, 512)."""

    @property
    def side_px(self) -> int:
        """Of the faces that it takes and gives."""
        return self.kind.side_px

    def latent(self, embedding: Embedding, alignment: Alignment) -> NDArray[np.float32]:
        """What the network is told of whose face it is to give, [1, 512].

        Args:
            embedding: of the source, raw.
            alignment: `insightface` normalises what comes out of the matrix, too; `facefusion` does not.
        """
        normed = (embedding / np.linalg.norm(embedding)).reshape(1, -1)
        if self.matrix is None:
            return np.asarray(normed, np.float32)
        if alignment == "facefusion":
            raw = embedding.reshape(1, -1)
            return np.asarray(np.dot(raw, self.matrix) / np.linalg.norm(raw), np.float32)
        latent = np.dot(normed, self.matrix)
        return np.asarray(latent / np.linalg.norm(latent), np.float32)

    def swap(self, faces: Sequence[Image], latent: NDArray[np.float32]) -> list[Image]:
        """The faces (uint8 RGB, of its side) with the looks that the latent tells.

        Raises:
            Permanent: the network gives what is no picture.
        """
        at_once = len(faces) if self.batch is None else self.batch
        swapped: list[Image] = []
        for first in range(0, len(faces), at_once):
            swapped += self._batch(faces[first : first + at_once], latent)
        return swapped

    def _batch(self, faces: Sequence[Image], latent: NDArray[np.float32]) -> list[Image]:
        kind = self.kind
        blob = cv2.dnn.blobFromImages(list(faces), 1.0 / 255.0, (kind.side_px, kind.side_px))
        if kind.mean or kind.deviation != 1.0:
            blob = (blob - np.float32(kind.mean)) / np.float32(kind.deviation)
        told = np.repeat(latent, len(faces), axis=0)
        pixels = self.session.run(None, {self.target: blob, self.source: told})[0]
        if not np.isfinite(pixels).all():
            raise Permanent(
                f"{self.name} gave pixels that are no numbers. Its file is damaged, or the device computes wrongly: "
                f"`doctorgen models verify {self.name}`."
            )
        pixels = pixels.transpose(0, 2, 3, 1)
        if kind.mean or kind.deviation != 1.0:
            pixels = pixels * np.float32(kind.deviation) + np.float32(kind.mean)
        return list(np.clip(255 * pixels, 0, 255).astype(np.uint8))


def open_swapper(name: str, path: Path, device: str, opened: Callable[[Path, str], Any] = open_session) -> Swapper:
    """A swapper of a file, by what the file takes and gives.

    Args:
        name: what people call it.
        path: of its ONNX file.
        device: `cpu`, `cuda` or `cuda:<index>`.
        opened: opens the session.

    Raises:
        Permanent: the file is no ONNX model, or none of `KINDS`.
    """
    session = opened(path, device)
    taken = {one.name: list(one.shape) for one in session.get_inputs()}
    faces = [one for one, shape in taken.items() if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]]
    told = [one for one, shape in taken.items() if len(shape) == 2 and shape[1] == 512]
    given = len(session.get_outputs())
    if len(taken) == 2 and len(faces) == 1 and len(told) == 1:
        shape = taken[faces[0]]
        for kind in KINDS:
            matrix = _matrix(path) if kind.has_matrix and kind.side_px == shape[2] else None
            if kind.side_px == shape[2] and kind.outputs == given and (matrix is not None) == kind.has_matrix:
                batch = next((one for one in (shape[0], taken[told[0]][0]) if isinstance(one, int)), None)
                return Swapper(name, kind, session, faces[0], told[0], batch, matrix)
    known = "; ".join(f"{kind.name}: {kind.side_px} pixels, {kind.outputs} outputs" for kind in KINDS)
    raise Permanent(
        f"{path} is no swapper of a known kind ({known}; both told of the source by 512 numbers): it takes {taken} and "
        f"gives {given} outputs. Swappers that need an embedding converted first, or a picture of the source, are not "
        "run."
    )


def _matrix(path: Path) -> NDArray[np.float32] | None:
    """The last constant of a file where it is of 512 x 512."""
    constants = onnx.load(str(path)).graph.initializer
    if not constants:
        return None
    last = numpy_helper.to_array(constants[-1])
    return np.asarray(last) if last.shape == (512, 512) else None
