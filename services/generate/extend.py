"""Continues a person where the photo's border cuts them and the frame shows more: clothes, never features.

The outline goes on with the direction it had and rounds off downwards, as shoulders do; the cloth is mirrored from a
strip along the border and loses its detail with the distance, so that no pattern repeats visibly.
"""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

_STRIP = 0.3
_FADE = 0.5
_DROP = 0.75
_OPAQUE = 0.5


def extend(
    colour: NDArray[np.uint8], alpha: NDArray[np.float32], face_width: float, missing: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Add so many pixels of body at the left, the right and the bottom.

    Args:
        colour: the person's colours without background, (H, W, 3).
        alpha: (H, W).
        face_width: in pixels.
        missing: pixels to add at the left, the right and the bottom.
    """
    left, right, bottom = missing
    solid = _bleed(colour, alpha, face_width)
    if left:
        solid, alpha = _sideways(solid[:, ::-1], alpha[:, ::-1], face_width, left)
        solid, alpha = solid[:, ::-1], alpha[:, ::-1]
    if right:
        solid, alpha = _sideways(solid, alpha, face_width, right)
    if bottom:
        solid, alpha = _downwards(solid, alpha, face_width, bottom)
    return np.ascontiguousarray(solid), np.ascontiguousarray(alpha)


def _sideways(
    colour: NDArray[np.uint8], alpha: NDArray[np.float32], face_width: float, amount: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Continue to the right: a shoulder that slopes on and drops off."""
    rows = alpha.shape[0]
    edge, inner = _top_of(alpha[:, -1]), _top_of(alpha[:, -max(2, round(0.15 * face_width))])
    wide = _mirror(colour, amount, face_width)
    if edge is None:
        return wide, np.pad(alpha, ((0, 0), (0, amount)))
    slope = 0.35 if inner is None else float(np.clip((edge - inner) / max(1.0, 0.15 * face_width), 0.1, 1.2))
    away = np.arange(1, amount + 1, dtype=np.float32)
    reach = _DROP * face_width
    fall = edge + slope * away + np.where(away < reach, reach - np.sqrt(np.maximum(reach**2 - away**2, 0)), rows)
    grown = np.clip(np.arange(rows, dtype=np.float32)[:, None] - fall[None, :] + 0.5, 0, 1)
    grown = cv2.GaussianBlur(grown, (0, 0), max(0.6, 0.008 * face_width))
    return wide, np.concatenate([alpha, grown], axis=1)


def _downwards(
    colour: NDArray[np.uint8], alpha: NDArray[np.float32], face_width: float, amount: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Continue below: the last row's outline, widening a little."""
    tall = np.transpose(_mirror(np.transpose(colour, (1, 0, 2)), amount, face_width), (1, 0, 2))
    last = np.repeat(alpha[-1:], amount, axis=0)
    columns = alpha.shape[1]
    hits = np.nonzero(alpha[-1] > _OPAQUE)[0]
    if len(hits):
        middle = (hits[0] + hits[-1]) / 2
        half = max(1.0, (hits[-1] - hits[0]) / 2)
        grow = 1 + 0.12 * np.arange(1, amount + 1, dtype=np.float32) / half
        across = (np.arange(columns, dtype=np.float32)[None, :] - middle) / grow[:, None] + middle
        where = np.broadcast_to(np.float32(alpha.shape[0] - 1), across.shape)
        last = cv2.remap(alpha, across.astype(np.float32), np.ascontiguousarray(where), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return tall, np.concatenate([alpha, last], axis=0)


def _mirror(colour: NDArray[np.uint8], amount: int, face_width: float) -> NDArray[np.uint8]:
    """Continue to the right with the strip along the border, mirrored to and fro, ever softer."""
    strip = max(4, min(colour.shape[1] - 1, round(_STRIP * face_width)))
    away = np.arange(amount)
    turn = away % (2 * strip)
    back = np.where(turn < strip, turn, 2 * strip - 1 - turn)
    sharp = colour[:, -1 - back]
    whole = np.concatenate([colour, sharp], axis=1)
    soft = cv2.GaussianBlur(whole, (0, 0), max(1.0, 0.16 * face_width))[:, -amount:]
    share = np.clip(away / (_FADE * face_width), 0, 0.85)[None, :, None]
    mixed = sharp * (1 - share) + soft * share
    return np.concatenate([colour, np.rint(mixed).astype(np.uint8)], axis=1)


def _bleed(colour: NDArray[np.uint8], alpha: NDArray[np.float32], face_width: float) -> NDArray[np.uint8]:
    """Let the person's colours run out over what is not the person, so that mirroring never brings in background."""
    sigma = 0.2 * face_width
    weight = np.where(alpha > 0.9, 1.0, 0.0).astype(np.float32)
    spread = cv2.GaussianBlur(colour * weight[..., None], (0, 0), sigma)
    total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    run = np.where(total > 1e-4, spread / np.maximum(total, 1e-4), colour)
    keep = np.clip(alpha * 1.5, 0, 1)[..., None]
    return cast("NDArray[np.uint8]", np.rint(colour * keep + run * (1 - keep)).astype(np.uint8))


def _top_of(column: NDArray[np.float32]) -> float | None:
    hits = np.nonzero(column > _OPAQUE)[0]
    return float(hits[0]) if len(hits) else None
