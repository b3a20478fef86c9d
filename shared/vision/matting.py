"""Cut a person from a photo: opacity and the colours the person has without the old background.

Why this way, and what was compared with it: docs/decisions/0003-matting.md.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter

from shared.vision.boxes import Box
from shared.vision.closed_form import closed_form_alpha

_WORKING_FACE_PX = 130.0
"""Faces wider than this are matted on a reduced picture; hair gains nothing beyond it, and time grows with the area."""
_LAB_BINS = 32
_COLOUR_WEIGHT = 1.0
_COLOUR_LIMIT = 4.0
_SURE = 0.9
_BODY_BAND = 0.07
_HAIR_BAND = 0.11
_FIRM_REACH = 0.05
_FIRM_FROM, _FIRM_TO = 0.55, 0.85
_NECK = 0.045


@dataclass(frozen=True)
class Matte:
    """A person without background. `colour` is uint8 RGB (H, W, 3), `alpha` float32 (H, W) in [0, 1]."""

    colour: NDArray[np.uint8]
    alpha: NDArray[np.float32]


def matte(image: NDArray[np.uint8], probability: NDArray[np.float32], face: Box) -> Matte:
    """Cut out the person whose face is given.

    Args:
        image: RGB, (H, W, 3).
        probability: of a person at each pixel, (H, W) in [0, 1].
        face: x, y, width, height in pixels.
    """
    factor = min(1.0, _WORKING_FACE_PX / face[2])
    if factor == 1.0:
        alpha = _alpha(image, probability, face)
    else:
        rows, columns = probability.shape
        size = (max(8, round(columns * factor)), max(8, round(rows * factor)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        belief = np.asarray(cv2.resize(probability, size, interpolation=cv2.INTER_AREA), np.float32)
        x, y, width, height = face
        alpha = _alpha(small, belief, (x * factor, y * factor, width * factor, height * factor))
        alpha = np.clip(cv2.resize(alpha, (columns, rows), interpolation=cv2.INTER_CUBIC), 0, 1)
    return Matte(foreground_colour(image, alpha, face[2]), alpha)


def _alpha(image: NDArray[np.uint8], probability: NDArray[np.float32], face: Box) -> NDArray[np.float32]:
    belief = _only_the_subject(refine_by_colour(image, probability, face[2]), face)
    alpha = closed_form_alpha(image / 255.0, trimap(belief, face), belief)
    return _firm_below_the_chin(_only_the_subject(np.clip((alpha - 0.03) / 0.94, 0.0, 1.0), face), face)


def refine_by_colour(
    image: NDArray[np.uint8], probability: NDArray[np.float32], face_width: float
) -> NDArray[np.float32]:
    """Let the picture's own colours decide where the segmentation is unsure.

    Histograms in Lab of what is surely person and surely background give a likelihood ratio, which is added to the
    segmentation's log odds. It takes back background of a telling colour (a flag, a plant) that the network kept.
    """
    band = _radius(face_width, _BODY_BAND)
    person = np.asarray(cv2.erode((probability > _SURE).astype(np.uint8), _disc(band)), np.uint8)
    around = np.asarray(cv2.erode((probability < 1 - _SURE).astype(np.uint8), _disc(band)), np.uint8)
    if not person.any() or not around.any():
        return probability
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), np.uint8)
    index = (lab // (256 // _LAB_BINS)).astype(np.intp)
    log_ratio = np.log(_histogram(lab, person) / _histogram(lab, around))
    told = np.clip(log_ratio[index[..., 0], index[..., 1], index[..., 2]], -_COLOUR_LIMIT, _COLOUR_LIMIT)
    told = cv2.GaussianBlur(told.astype(np.float32), (0, 0), max(face_width * 0.02, 0.5))
    odds = np.log((probability + 0.01) / (1.01 - probability)) + _COLOUR_WEIGHT * told
    return np.asarray((1 / (1 + np.exp(-odds))), np.float32)


def trimap(belief: NDArray[np.float32], face: Box) -> NDArray[np.float32]:
    """1 where surely person, 0 where surely not, 0.5 in the band between, which is wider around the hair."""
    x, y, width, height = face
    person, around = (belief > _SURE).astype(np.uint8), (belief < 1 - _SURE).astype(np.uint8)
    marks = _bands(person, around, _radius(width, _BODY_BAND))
    hair = _bands(person, around, _radius(width, _HAIR_BAND))
    rows, columns = np.mgrid[0 : belief.shape[0], 0 : belief.shape[1]]
    at_hair = (rows < y + 0.75 * height) & (np.abs(columns - x - width / 2) < 1.3 * width)
    return np.asarray(np.where(at_hair, hair, marks), np.float32)


def foreground_colour(image: NDArray[np.uint8], alpha: NDArray[np.float32], face_width: float) -> NDArray[np.uint8]:
    """The person's own colour at each pixel, free of the background's.

    Source: M. Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021 (blur fusion, two passes).
    """
    colour = image.astype(np.float32) / 255
    opacity = alpha[..., None]
    person, around = colour, colour
    for share in (0.5, 0.06):
        size = 2 * _radius(face_width, share / 2) + 1
        person, around = _blur_fusion(colour, person, around, opacity, size)
    return np.asarray(np.rint(person * 255), np.uint8)


def _blur_fusion(
    colour: NDArray[np.float32],
    person: NDArray[np.float32],
    around: NDArray[np.float32],
    opacity: NDArray[np.float32],
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    weight = cv2.blur(opacity, (size, size))[..., None]
    person = cv2.blur(person * opacity, (size, size)) / (weight + 1e-5)
    around = cv2.blur(around * (1 - opacity), (size, size)) / (1 - weight + 1e-5)
    person = np.clip(person + opacity * (colour - opacity * person - (1 - opacity) * around), 0, 1)
    return person.astype(np.float32), around.astype(np.float32)


def _only_the_subject(opacity: NDArray[np.float32], face: Box) -> NDArray[np.float32]:
    """Drop what is not joined to the face, or by a thread only, and fill holes inside the body."""
    x, y, width, height = face
    solid = (opacity > 0.5).astype(np.uint8)
    thick = cv2.morphologyEx(solid, cv2.MORPH_OPEN, _disc(_radius(width, _NECK)))
    _, labels = cv2.connectedComponents(thick)
    centre = labels[round(y + height / 2), round(x + width / 2)]
    if centre == 0:
        return opacity
    subject = labels == centre
    near = cv2.dilate(subject.astype(np.uint8), _disc(_radius(width, _HAIR_BAND))) > 0
    holes = binary_fill_holes(subject) & ~subject
    small = holes & ~_large(holes, (0.25 * width) ** 2)
    return np.asarray(np.where(small, 1.0, np.where(near, opacity, 0.0)), np.float32)


def _firm_below_the_chin(opacity: NDArray[np.float32], face: Box) -> NDArray[np.float32]:
    """Clothes, unlike hair, have no wide soft edges: what stays half opaque away from them is decided."""
    x, y, width, height = face
    core = cv2.morphologyEx((opacity > _SURE).astype(np.uint8), cv2.MORPH_OPEN, _disc(_radius(width, 0.03)))
    distance = cv2.distanceTransform(1 - core, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / width
    decided = np.clip((opacity - _FIRM_FROM) / (_FIRM_TO - _FIRM_FROM), 0, 1)
    away = np.clip(distance / _FIRM_REACH - 0.5, 0, 1)
    rows, columns = opacity.shape
    across = np.abs(np.arange(columns, dtype=np.float32) - x - width / 2)[None, :] / width
    below = (np.arange(rows, dtype=np.float32) - y - height)[:, None] / width
    body = np.clip(np.maximum(below / 0.3 + 0.5, (across - 1.3) / 0.3), 0, 1)
    return np.asarray(opacity + body * away * (decided - opacity), np.float32)


def _large(mask: NDArray[np.bool_], area: float) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    big = stats[:, cv2.CC_STAT_AREA] > area
    big[0] = False
    return np.asarray(big[labels], np.bool_)


def _bands(person: NDArray[np.uint8], around: NDArray[np.uint8], radius: int) -> NDArray[np.float32]:
    sure, none = cv2.erode(person, _disc(radius)), cv2.erode(around, _disc(radius))
    return np.where(sure > 0, 1.0, np.where(none > 0, 0.0, 0.5)).astype(np.float32)


def _histogram(lab: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    counts = cv2.calcHist([lab], [0, 1, 2], mask, [_LAB_BINS] * 3, [0, 256] * 3)
    smooth = gaussian_filter(counts.astype(np.float64), 1.2)
    return np.asarray((smooth + 1e-3) / (smooth.sum() + 1e-3 * smooth.size), np.float64)


def _radius(face_width: float, share: float) -> int:
    return max(2, round(face_width * share))


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
