"""Sharpening of large pictures in little memory."""

import math

import cv2
import numpy as np

from shared.vision.codec import Image

STRIP_ROWS = 256


def unsharp(image: Image, amount: float, sigma_px: float, strip_rows: int = STRIP_ROWS) -> None:
    """Unsharp masking in place: adds `amount` times what a Gaussian of that sigma takes away.

    Works in strips of whole rows, each read with enough rows of its untouched neighbours that the result is the same
    for any strip height.
    """
    halo = math.ceil(3 * sigma_px)
    window = (2 * halo + 1, 2 * halo + 1)
    height = image.shape[0]
    above = image[:0].copy()
    for top in range(0, height, strip_rows):
        bottom = min(top + strip_rows, height)
        strip = np.concatenate((above, image[top : bottom + halo]))
        start = len(above)
        above = strip[: start + bottom - top][-halo:].copy()
        blurred = cv2.GaussianBlur(strip, window, sigma_px, borderType=cv2.BORDER_REFLECT_101)
        sharp = cv2.addWeighted(strip, 1 + amount, blurred, -amount, 0)
        image[top:bottom] = sharp[start : start + bottom - top]
