"""A swapped crop back into its picture, under a mask."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from services.swap.swapping.align import Matrix, resized
from services.swap.swapping.masks import box_mask, insightface_mask
from shared.vision.blend import Mask, from_lab, match_colour, to_lab
from shared.vision.codec import Image

LEAST_SHOWN = 0.05
"""Opacity that a face must reach somewhere to have been swapped at all."""


def mask_of(
    matrix: Matrix, side_px: int, size: tuple[int, int], masks: Sequence[Mask], published: bool, strength: float
) -> Mask | None:
    """The face's opacity in the picture: the least of all masks, times the strength.

    Args:
        matrix: from the picture to the crop.
        side_px: of the crop.
        size: height and width of the picture.
        masks: of the crop.
        published: whether insightface's own mask is one of them.
        strength: 0 to 1.

    Returns:
        None where nothing of the face would show: it lies outside, or is too small for the masks' soft edges.
    """
    found = insightface_mask(matrix, side_px, size) if published else np.ones(size, np.float32)
    if found is None:
        return None
    inverse = cv2.invertAffineTransform(matrix)
    for mask in masks:
        whole = cv2.resize(mask, (side_px, side_px)) if mask.shape[0] != side_px else mask
        found = np.minimum(found, cv2.warpAffine(whole, inverse, size[::-1]).clip(0, 1))
    if found.max() < LEAST_SHOWN:
        return None
    return np.asarray(found if strength == 1.0 else found * np.float32(strength), np.float32)


def paste(image: Image, crop: Image, matrix: Matrix, mask: Mask, published: bool, boosted: bool = False) -> Image:
    """The picture with the crop in it; where the mask is 0 its own bytes stand.

    Source: insightface, model_zoo/inswapper.py, `INSwapper.get`: levels are cut off, not rounded, as there.

    Args:
        image: uint8 RGB.
        crop: uint8 RGB, square.
        matrix: from the picture to the crop.
        mask: opacity in the picture.
        published: whether insightface's mask keeps the crop's edge from showing. If not, the edge's colours go on
            beyond it, lest the black there shine through as a dark rim.
        boosted: whether the crop has more pixels than the swapper made. It is then enlarged by cubic interpolation, as
            ReActor's Face Boost does, and averaged first where it is reduced: warping alone would alias.
    """
    if boosted:
        crop, matrix = _reduced(crop, matrix)
    inverse = cv2.invertAffineTransform(matrix)
    border = cv2.BORDER_CONSTANT if published else cv2.BORDER_REPLICATE
    how = cv2.INTER_CUBIC if boosted else cv2.INTER_LINEAR
    placed = cv2.warpAffine(crop, inverse, image.shape[1::-1], flags=how, borderMode=border)
    shown = _around(mask)
    share, result = mask[shown][..., None], image.copy()
    mixed = share * placed[shown] + (1 - share) * image[shown].astype(np.float32)
    result[shown] = mixed.astype(np.uint8)
    return result


def _reduced(crop: Image, matrix: Matrix) -> tuple[Image, Matrix]:
    """The crop at no more pixels than it takes in the picture, and the matrix to that."""
    side = max(round(crop.shape[0] / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))), 1)
    if side >= crop.shape[0]:
        return crop, matrix
    smaller = np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return smaller, resized(matrix, side / crop.shape[0])


def _around(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that hold all of a mask that is not 0: of a large picture a small part."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(0), slice(0))


def coloured(crop: Image, under: Image, masks: Sequence[Mask], strength: float) -> Image:
    """The swapped crop in the colours of the crop that it is laid over, measured in the face's middle.

    Args:
        crop: swapped.
        under: the picture's own, of the same size.
        masks: of the crop, where it shows.
        strength: 0 to 1.
    """
    if strength == 0.0:
        return crop
    middle = np.minimum.reduce([box_mask(crop.shape[0], 0.5), *masks])
    return from_lab(match_colour(to_lab(crop), to_lab(under), middle, strength))
