"""Where a swapped face shows: masks of its upright crop, and insightface's own, which is made in the picture."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from torch import nn

from services.swap.swapping.align import Matrix
from shared.contracts.errors import Permanent
from shared.vision.blend import Mask
from shared.vision.codec import Image
from shared.vision.networks.parsing import parse

FACE_CLASSES = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
"""Skin, brows, eyes, glasses, nose, mouth and lips."""

PARSED_PX = 512
"""Of the crop that the parser is shown."""

SOFT_PX = 5
"""Standard deviation of the blur that takes the steps from the masks that networks give."""


def insightface_mask(matrix: Matrix, side_px: int, size: tuple[int, int]) -> Mask | None:
    """INSwapper's mask of the picture, of that height and width: the crop's square, shrunk and blurred.

    Source: insightface, model_zoo/inswapper.py, `INSwapper.get`.

    Returns:
        None where no pixel of the square lies in the picture.
    """
    height, width = size
    inverse = cv2.invertAffineTransform(matrix)
    white = cv2.warpAffine(np.full((side_px, side_px), 255, np.float32), inverse, (width, height))
    white[white > 20] = 255
    whole = white == 255
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    if not rows.size:
        return None
    side = int(np.sqrt(float(np.ptp(rows)) * float(np.ptp(columns))))
    shrink, soft = max(side // 10, 10), 2 * max(side // 20, 5) + 1
    white = cv2.erode(white, np.ones((shrink, shrink), np.uint8), iterations=1)
    return np.asarray(cv2.GaussianBlur(white, (soft, soft), 0) / np.float32(255), np.float32)


def box_mask(side_px: int, blur: float, padding: Sequence[float] = (0.0, 0.0, 0.0, 0.0)) -> Mask:
    """The crop's square with a soft edge.

    Source: facefusion, face_masker.py, `create_box_mask`.

    Args:
        side_px: of the crop.
        blur: the soft edge, 0 to 1; at 1 it reaches half-way to the middle.
        padding: shares of the side that are left out at the upper, right, lower and left edge, 0 to 1.
    """
    amount = int(side_px * 0.5 * blur)
    top, right, bottom, left = (max(amount // 2, 1, int(side_px * share)) for share in padding)
    mask = np.ones((side_px, side_px), np.float32)
    mask[:top] = mask[-bottom:] = 0.0
    mask[:, :left] = mask[:, -right:] = 0.0
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), amount * 0.25), np.float32) if amount else mask


def parsed_mask(crop: Image, parser: nn.Module) -> Mask:
    """Where a crop (uint8 RGB, upright) shows face, and not hair, neck, clothes or a hand.

    Source: facefusion, face_masker.py, `create_region_mask`.
    """
    labels = parse(parser, np.asarray(cv2.resize(crop, (PARSED_PX, PARSED_PX)), np.uint8))
    shown = np.isin(labels, FACE_CLASSES).astype(np.float32)
    return _soft(cv2.resize(shown, crop.shape[1::-1]))


def occlusion_mask(crop: Image, session: Any, name: str) -> Mask:
    """Where nothing lies before the face in a crop (uint8 RGB, upright).

    Source: facefusion, face_masker.py, `create_occlusion_mask`, with DeepFaceLab's XSeg.

    Args:
        crop: of the picture, before the swap.
        session: of a network that takes BGR from 0 to 1, [1, side, side, 3], and gives [1, side, side, 1] from 0 to 1.
        name: of the network, for errors.

    Raises:
        Permanent: it takes or gives something else.
    """
    taken = session.get_inputs()[0]
    side = taken.shape[1]
    if len(taken.shape) != 4 or taken.shape[3] != 3 or taken.shape[2] != side or not isinstance(side, int):
        raise Permanent(f"{name} takes {taken.shape}, and an occluder takes [1, side, side, 3]. Name another.")
    small = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), (side, side))
    given = session.run(None, {taken.name: small[None].astype(np.float32) / 255.0})[0][0]
    if given.shape[:2] != (side, side) or not np.isfinite(given).all():
        raise Permanent(
            f"{name} gave no mask but {given.shape}, or what is no number. `doctorgen models verify {name}`."
        )
    shown = np.asarray(given.reshape(side, side).clip(0, 1), np.float32)
    return _soft(cv2.resize(shown, crop.shape[1::-1]))


def _soft(mask: Any) -> Mask:
    """Blurred, and of that the half that lies within: what is at most half shown is not shown."""
    blurred = cv2.GaussianBlur(mask.clip(0, 1), (0, 0), SOFT_PX)
    return np.asarray((blurred.clip(0.5, 1) - 0.5) * 2, np.float32)
