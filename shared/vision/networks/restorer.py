"""Restoring faces: each is cut out upright, restored by a network, and laid back without a trace.

Sources: facexlib's FaceRestoreHelper for the alignment and the square mask; `inference_codeformer.py`,
`gfpgan/utils.py` and `RestoreFormer.py` of the networks' publishers for what they are given and what they give.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.contracts.errors import InvalidInput
from shared.flux.residents import ModuleResident
from shared.vision.blend import Mask, Region, lay_over, place
from shared.vision.codec import Image
from shared.vision.networks.crop512 import BORDER, SIDE_PX, Points, crop_matrix, moved
from shared.vision.networks.image_models import (
    ImageModel,
    Kind,
    check_finite,
    image_model_key,
    load_image_model,
    precision,
    stored_bytes,
)

KIND: Kind = "face restorer"

INSET_PX = 10
"""At the crop's edge, never laid back: there the network has seen half of what it needs."""

RAMP_PX = 40
"""From there to where the restored face stands alone. facexlib's mask, whose edge is taken back by a twentieth of the
crop's side and blurred by as much, rises over the same pixels."""

Affine = NDArray[np.float64]
"""(2, 3): where a point of one picture comes to lie in another, x before y, pixel centres at whole numbers."""

Larger = Callable[[Image], Image]
"""Makes a picture a whole number of times as large, with more detail than resampling gives."""


class Restorer(nn.Module):
    """Restores faces, one at a time: the result for one does not depend on which others there are.

    Args:
        model: a face restorer.
    """

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    @torch.inference_mode()
    def restore(self, crops: Sequence[Image], weight: float) -> list[Image]:
        """The restored faces, uint8 RGB 512 x 512 as they came.

        Args:
            crops: upright faces as `crop512` cuts them.
            weight: of CodeFormer, 0 (what its codebook says) to 1 (faithful to the crop); the others know none.

        Raises:
            InvalidInput: a crop of another size.
            Permanent: the network gave pixels that are no numbers.
        """
        for crop in crops:
            if crop.shape != (SIDE_PX, SIDE_PX, 3):
                raise InvalidInput("crops", f"a face of shape {crop.shape}", f"Cut it to {SIDE_PX} x {SIDE_PX} first.")
        return [self._restored(crop, weight) for crop in crops]

    def _restored(self, crop: Image, weight: float) -> Image:
        first = next(self.model.network.parameters())
        pixels = torch.from_numpy(np.ascontiguousarray(crop)).to(first.device).permute(2, 0, 1)[None]
        given = ((pixels.float() / 255 - 0.5) / 0.5).to(first.dtype)
        made = _run(self.model, given, weight).float()
        check_finite(self.model.name, made)
        levels = (made[0].clamp(-1, 1) + 1) / 2 * 255
        return np.asarray(levels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _run(model: ImageModel, given: Tensor, weight: float) -> Tensor:
    """The network's own call: levels [1, 3, 512, 512] from -1 to 1, and about as much comes back.

    Spandrel's descriptors of GFPGAN and CodeFormer pass on what they are given and clip to 0 to 1, which would be half
    of the range; hence not through them. GFPGAN's noise is the one that its file holds, so that the same face gives the
    same bytes. CodeFormer adapts its codes' mean and spread to the face's (`adain`), as its publisher's command does.
    """
    network = model.network
    if model.architecture == "CodeFormer":
        made = network(given, weight=weight)
    elif model.architecture == "GFPGAN":
        made = network(given, return_rgb=False, randomize_noise=False)
    else:
        made = network(given)
    restored: Tensor = made[0]
    return restored


def restorer_key(path: Path, device: str) -> str:
    """What a Residency knows `restorer_resident` by."""
    return image_model_key(path, KIND, device)


def restorer_resident(
    path: Path, device: str, field: str = "restorer", name: str | None = None
) -> ModuleResident[Restorer]:
    """A restorer as a Resident. Reads the file's header.

    Args:
        path: of its safetensors file.
        device: `cpu`, `cuda` or `cuda:<index>`.
        field: the parameter that names the model, for errors.
        name: what people call it; the file's name where None.

    Raises:
        Permanent: the file cannot be read. Loading raises what `load_image_model` does.
    """
    dtype, called = precision(KIND, device), name or path.stem
    return ModuleResident(
        f"{called} in {dtype}",
        lambda: Restorer(load_image_model(path, KIND, dtype, field, called)),
        stored_bytes(path, dtype),
        device,
    )


def restorable(points: Points) -> bool:
    """Whether a face can be brought upright by its five key points: a detector may tell one whose points coincide."""
    try:
        crop_matrix(points)
    except InvalidInput:
        return False
    return True


def restore_faces(
    image: Image,
    points: Sequence[Points],
    restorer: Restorer,
    weight: float = 0.5,
    visibility: float = 1.0,
    larger: Larger | None = None,
) -> Image:
    """The picture with these faces restored; bit by bit itself where none of their squares lies.

    Faces are cut out of the picture as it came, and the largest is laid back last: where squares overlap it wins.

    Args:
        image: uint8 RGB. Left as it is.
        points: five key points (5, 2) of each face, as detectors give them: eyes, nose, corners of the mouth.
        restorer: on its device.
        weight: of CodeFormer, 0 to 1.
        visibility: opacity of the restored faces, 0 to 1.
        larger: enlarges a restored face that is laid back larger than 512 pixels; resampling does where None.

    Raises:
        InvalidInput: key points from which no face can be brought upright.
        Permanent: the network gave pixels that are no numbers.
    """
    matrices = [crop_matrix(one) for one in points]
    if not matrices or visibility <= 0:
        return image.copy()
    faces = restorer.restore([upright(image, one) for one in matrices], weight)
    for matrix, face in sorted(zip(matrices, faces, strict=True), key=lambda pair: -magnification(pair[0])):
        image = laid_back(image, face, matrix, visibility, larger)
    return image


def upright(image: Image, matrix: Affine) -> Image:
    """The face as `crop512` cuts it; a larger one is reduced by area averages first, so that nothing aliases.

    Args:
        image: uint8 RGB.
        matrix: from the picture to the crop, of `crop_matrix`.
    """
    scale = magnification(matrix)
    if scale < 1:
        height, width = image.shape[:2]
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = _before(matrix, width / size[0], height / size[1])
    border = [float(level) for level in BORDER]
    crop = cv2.warpAffine(image, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_CONSTANT, borderValue=border)
    return np.asarray(crop, np.uint8)


def laid_back(image: Image, face: Image, matrix: Affine, visibility: float, larger: Larger | None = None) -> Image:
    """A copy of the picture with a restored face, 512 x 512, where it was cut from.

    Args:
        image: uint8 RGB.
        face: the restored one.
        matrix: that it was cut with, from the picture to the crop.
        visibility: its opacity, 0 to 1.
        larger: as of `restore_faces`.
    """
    corners = np.array([(0, 0), (SIDE_PX, 0), (SIDE_PX, SIDE_PX), (0, SIDE_PX)], np.float64) - 0.5
    there = moved(corners, np.asarray(cv2.invertAffineTransform(matrix), np.float64))
    region = Region.around(there.astype(np.float32), 1.0, image)
    if region.empty:
        return image.copy()
    within = np.column_stack((matrix[:, :2], moved(region.origin[None].astype(np.float64), matrix)[0]))
    sized = _sized(face, 1 / magnification(matrix), larger)
    share = sized.shape[0] / SIDE_PX
    to_sized = np.column_stack((share * within[:, :2], share * (within[:, 2] + 0.5) - 0.5))
    height, width = region.size
    patch = cv2.warpAffine(
        sized,
        to_sized,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    mask = soft_square(within, region.size) * np.float32(visibility)
    return place(image, region, lay_over(region.of(image), np.asarray(patch, np.uint8), mask))


def soft_square(matrix: Affine, size: tuple[int, int]) -> Mask:
    """Opacity of a crop's square where it lies in a picture: 1 within, falling smoothly to 0 before its edge.

    Reckoned at each pixel from its place in the crop, and not warped: nothing of it can leak beyond the square.

    Args:
        matrix: from the picture to the crop.
        size: height and width of the picture, in pixels.
    """
    height, width = size
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    (across, down), shift = matrix[:, :2].T.astype(np.float32), matrix[:, 2].astype(np.float32) + 0.5
    distance = np.full(size, np.inf, np.float32)
    for axis in (0, 1):
        along = columns * across[axis] + rows * down[axis] + shift[axis]
        np.minimum(distance, np.minimum(along, SIDE_PX - along), out=distance)
    ramp = np.clip((distance - INSET_PX) / RAMP_PX, 0.0, 1.0)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def magnification(matrix: Affine) -> float:
    """How many times larger a similarity makes things."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def _before(matrix: Affine, across: float, down: float) -> Affine:
    """The map of a picture that was reduced that many times first."""
    shares = np.array((across, down))
    return np.column_stack((matrix[:, :2] * shares, matrix[:, :2] @ (shares / 2 - 0.5) + matrix[:, 2]))


def _sized(face: Image, growth: float, larger: Larger | None) -> Image:
    """The face at about the size that it is laid back at, or smaller where there is no more of it.

    What is larger, the face itself or what `larger` made of it, is averaged first: warping alone would alias.
    """
    if growth > 1 and larger is not None:
        face = larger(face)
    side = max(round(SIDE_PX * growth), 1)
    if face.shape[0] <= side:
        return face
    return np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
