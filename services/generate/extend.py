"""Continues a person where the photo's border cuts them and the frame shows more: plain cloth, never features.

The outline goes on in the direction it had, out to the width of shoulders and then down. The cloth takes the colours
along the border and loses their pattern with the distance.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.vision.boxes import Box, centre

_STRIP = 0.08
_DETAIL = 0.15
_OVERLAP = 0.28
_PLAIN = 0.55
_SHOULDER = 1.6
_ROUNDING = 0.42
_NECK, _BODY = 1.0, 1.2
"""Half widths, in face widths: narrower is still neck or collar, wider is body."""
_SLOPE_FROM = 0.25
_OPAQUE = 0.5
_SOLID = 0.9
_FOLD = 0.07
_FOLD_SHARE = 0.3
_FOLD_SEED = 20
_SKIN_DISTANCE = 26.0
_FALLBACK = (46.0, 54.0, 64.0)


@dataclass(frozen=True)
class Missing:
    """Photo pixels to add at each border."""

    left: int = 0
    right: int = 0
    bottom: int = 0


def extend(
    colour: NDArray[np.uint8], alpha: NDArray[np.float32], face: Box, missing: Missing
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The person on a larger canvas, continued at the left, the right and the bottom where the border cuts them.

    Args:
        colour: the person's colours without background, (H, W, 3).
        alpha: (H, W).
        face: in pixels.
        missing: pixels to add.
    """
    skin = _skin(colour, face)
    middle = centre(face)[0]
    wide, opacity = colour.astype(np.float32), alpha
    if missing.left:
        wide, opacity = _sideways(wide[:, ::-1], opacity[:, ::-1], middle, face[2], missing.left, skin)
        wide, opacity = wide[:, ::-1], opacity[:, ::-1]
    if missing.right:
        aside = colour.shape[1] - middle
        wide, opacity = _sideways(wide, opacity, aside, face[2], missing.right, skin)
    if missing.bottom:
        wide, opacity = _downwards(wide, opacity, middle + missing.left, face[2], missing.bottom, skin)
    return np.rint(np.clip(wide, 0, 255)).astype(np.uint8), np.ascontiguousarray(opacity)


def _sideways(
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    aside: float,
    face_px: float,
    amount: int,
    skin: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Continue to the right: a shoulder that slopes on and drops off. `aside`: from the face's middle to the border."""
    rows = alpha.shape[0]
    step = max(2, round(0.15 * face_px))
    edge, inner = _top_of(alpha[:, -1]), _top_of(alpha[:, -step])
    if edge is None:
        return np.pad(colour, ((0, 0), (0, amount), (0, 0)), mode="edge"), np.pad(alpha, ((0, 0), (0, amount)))
    slope = 0.4 if inner is None else float(np.clip((edge - inner) / step, 0.15, 1.2))
    away = np.arange(1, amount + 1, dtype=np.float32)
    reach = max(_ROUNDING * face_px, _SHOULDER * face_px - aside)
    drop = np.where(away < reach, 0.7 * (reach - np.sqrt(np.maximum(reach**2 - away**2, 0))), rows)
    fall = edge + slope * away + drop
    grown = _softened(np.arange(rows, dtype=np.float32)[:, None] - fall[None, :], face_px)
    clothed = _continued(colour.transpose(1, 0, 2), alpha.T, amount, face_px, skin, first=round(edge))
    clothed = clothed.transpose(1, 0, 2)
    return clothed, np.concatenate([alpha, grown], axis=1)


def _downwards(
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    middle: float,
    face_px: float,
    amount: int,
    skin: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Continue below: out to the width of shoulders, then straight down."""
    hits = np.nonzero(alpha[-1] > _OPAQUE)[0]
    if not len(hits):
        return np.pad(colour, ((0, amount), (0, 0), (0, 0)), mode="edge"), np.pad(alpha, ((0, amount), (0, 0)))
    away = np.arange(1, amount + 1, dtype=np.float32)
    back = min(alpha.shape[0], max(2, round(_SLOPE_FROM * face_px)))
    before = np.nonzero(alpha[-back] > _OPAQUE)[0]
    earlier = (hits[0], hits[-1]) if not len(before) else (before[0], before[-1])
    widths = [
        _spread(reached, (reached - inner) / back, away, face_px)
        for reached, inner in ((middle - hits[0], middle - earlier[0]), (hits[-1] - middle, earlier[1] - middle))
    ]
    across = np.arange(alpha.shape[1], dtype=np.float32)[None, :] - middle
    inside = np.minimum(across + widths[0][:, None], widths[1][:, None] - across)
    clothed = _continued(colour, alpha, amount, face_px, skin)
    return clothed, np.concatenate([alpha, _softened(inside, face_px)])


def _spread(reached: float, slope: float, away: NDArray[np.float32], face_px: float) -> NDArray[np.float32]:
    """Half the body's width further down: on in its direction, from a neck out to the shoulders, then down."""
    wider = max(0.0, slope) * _ROUNDING * face_px
    shoulders = _SHOULDER * face_px - reached
    wider = max(wider, shoulders * float(np.clip((_BODY * face_px - reached) / ((_BODY - _NECK) * face_px), 0, 1)))
    return np.asarray(reached + wider * (1 - np.exp(-away / (_ROUNDING * face_px))) + 0.04 * away, np.float32)


def _continued(
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    amount: int,
    face_px: float,
    skin: NDArray[np.float32],
    first: int = 0,
) -> NDArray[np.float32]:
    """The picture with `amount` rows of cloth below it, into which its last rows pass over from column `first` on."""
    cloth = _cloth(colour[::-1], alpha[::-1], amount, face_px, skin)
    overlap = min(max(2, round(_OVERLAP * face_px)), colour.shape[0] // 2)
    last = colour[-overlap:]
    away = np.arange(overlap, dtype=np.float32)[:, None] / overlap
    ragged = cv2.resize(_noise(4, 24), (colour.shape[1], overlap), interpolation=cv2.INTER_CUBIC)
    share = np.clip(1.6 * away - 0.5 + 0.25 * ragged * away, 0, 1) ** 2
    bare = np.abs(_lab(last.reshape(-1, 3)) - skin).max(axis=1).reshape(last.shape[:2])
    share = share * np.clip((bare - 0.6 * _SKIN_DISTANCE) / (0.4 * _SKIN_DISTANCE), 0, 1)
    share[:, :first] = 0
    share = np.where(away > 0.97, 1.0, cv2.GaussianBlur(share.astype(np.float32), (0, 0), max(0.6, 0.02 * face_px)))
    mixed = last * (1 - share[..., None]) + cloth[:1] * share[..., None]
    return np.concatenate([colour[:-overlap], mixed.astype(np.float32), cloth])


def _cloth(
    colour: NDArray[np.float32], alpha: NDArray[np.float32], amount: int, face_px: float, skin: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Plain cloth for `amount` rows beyond the first row, (amount, W, 3)."""
    strip = max(2, round(_STRIP * face_px))
    flat = np.median(colour[:strip], axis=0)
    covered = np.median(alpha[:strip], axis=0) > _SOLID
    dressed = covered & (np.abs(_lab(flat) - skin).max(axis=1) > _SKIN_DISTANCE)
    weight = dressed.astype(np.float32)[:, None]
    if not dressed.any():
        flat, weight = np.broadcast_to(np.array(_FALLBACK, np.float32), flat.shape), np.ones_like(weight)
    common = np.median(flat[weight[:, 0] > 0], axis=0)
    flat = _without_details(flat, face_px)
    away = np.arange(1, amount + 1, dtype=np.float32)[:, None, None]
    near, far = _along(flat, weight, 0.04 * face_px, common), _along(flat, weight, 0.3 * face_px, common)
    towards_far, towards_common = (
        np.clip(away / (0.35 * face_px), 0, 1),
        np.clip(away / (_PLAIN * face_px) - 0.3, 0, 0.85),
    )
    cloth = near[None] * (1 - towards_far) + far[None] * towards_far
    cloth = cloth * (1 - towards_common) + common * towards_common
    return np.asarray(cloth * _folds(amount, flat.shape[0], face_px)[..., None], np.float32)


def _without_details(line: NDArray[np.float32], face_px: float) -> NDArray[np.float32]:
    """The line without buttons and badges: its running median, (W, 3)."""
    size = 2 * max(1, round(_DETAIL * face_px)) + 1
    return np.asarray(cv2.medianBlur(np.rint(line[None]).astype(np.uint8), size)[0], np.float32)


def _along(
    line: NDArray[np.float32], weight: NDArray[np.float32], sigma: float, common: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The line smoothed where it has weight, the common colour where it has none, (W, 3)."""
    small = 1e-3
    kernel = (0, 0)
    top = cv2.GaussianBlur(np.ascontiguousarray((line * weight)[None], np.float32), kernel, max(sigma, 0.6))[0]
    bottom = cv2.GaussianBlur(np.ascontiguousarray(weight[None], np.float32), kernel, max(sigma, 0.6)).reshape(-1, 1)
    return np.asarray((top + common * small) / (bottom + small), np.float32)


def _folds(rows: int, columns: int, face_px: float) -> NDArray[np.float32]:
    """Soft light and shade as cloth hangs, growing from none at the first row, and darker further down."""
    grain = _FOLD_SHARE * face_px
    cells = (max(2, round(columns / grain)), max(2, round(0.5 * rows / grain)))
    wave = cv2.resize(_noise(cells[1], cells[0]), (columns, rows), interpolation=cv2.INTER_CUBIC)
    away = np.arange(1, rows + 1, dtype=np.float32)[:, None] / face_px
    return np.asarray(
        (1 + _FOLD * wave * np.clip(away / 0.4, 0, 1)) * (1 - 0.3 * np.clip(away / 2.5, 0, 1)), np.float32
    )


def _noise(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(_FOLD_SEED)).standard_normal((rows, columns), dtype=np.float32)


def _softened(distance: NDArray[np.float32], face_px: float) -> NDArray[np.float32]:
    """Opacity from the signed distance to an outline, as soft as a photo's edge."""
    edge = max(0.8, 0.012 * face_px)
    return np.asarray(np.clip(distance / (2 * edge) + 0.5, 0, 1), np.float32)


def _skin(colour: NDArray[np.uint8], face: Box) -> NDArray[np.float32]:
    x, y, width, height = (round(value) for value in face)
    patch = colour[max(0, y + height // 3) : y + height * 2 // 3, max(0, x + width // 4) : x + width * 3 // 4]
    return np.asarray(np.median(_lab(patch.reshape(-1, 3).astype(np.float32)), axis=0), np.float32)


def _lab(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lab of colours (N, 3) in 0 to 255."""
    return np.asarray(cv2.cvtColor((colours[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0], np.float32)


def _top_of(column: NDArray[np.float32]) -> float | None:
    hits = np.nonzero(column > _OPAQUE)[0]
    return float(hits[0]) if len(hits) else None
