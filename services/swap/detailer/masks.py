"""Masks of what is painted anew, and how a painted crop is laid back into its picture: pixels, never latents.

Source: ComfyUI Impact Pack, FaceDetailer.
"""

from typing import Final

import cv2
import numpy as np
from PIL import Image as Pillow

from services.swap.detailer.regions import Size
from shared.vision.blend import Mask, Region, lay_over, place
from shared.vision.boxes import Box
from shared.vision.codec import Image

SIGMA: Final = 10.0
"""Of the Gaussian that softens masks, in pixels, whatever its width."""

LEAST_KERNEL: Final = 3


def box_mask(box: Box, region: Region, width: int, height: int, dilation: int) -> Mask:
    """1 where a crop is to change, 0 elsewhere: the filled box, grown or shrunk.

    Args:
        box: within the picture, in its pixels.
        region: the crop.
        width: of the picture in pixels.
        height: likewise.
        dilation: side of the square with which the mask is dilated, so that it grows by about half of it on each side;
            eroded where negative. The picture's border does not erode it.

    Returns:
        Of the region's size. Nothing of it is 1 where erosion leaves nothing.
    """
    whole = np.zeros((height, width), np.uint8)
    x, y, across, down = box
    cv2.rectangle(whole, (int(x), int(y)), (int(x + across), int(y + down)), (1.0,), cv2.FILLED)
    if dilation:
        change = cv2.dilate if dilation > 0 else cv2.erode
        whole = np.asarray(change(whole, np.ones((abs(dilation), abs(dilation)), np.uint8)), np.uint8)
    return np.asarray(region.of(whole), np.float32)


def soften(mask: Mask, feather: int) -> Mask:
    """A mask with soft edges: a Gaussian of SIGMA over 2 `feather` + 1 pixels, the border mirrored.

    The kernel is reduced to about half of the mask's shorter side where it is not smaller than that; of fewer than 3
    pixels, or with a feather of 0, the mask stays as it is.
    """
    kernel = 2 * feather + 1
    shorter = min(mask.shape)
    if shorter <= kernel:
        kernel = shorter // 2 | 1
    if feather == 0 or kernel < LEAST_KERNEL:
        return mask
    blurred = cv2.GaussianBlur(mask, (kernel, kernel), SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(np.clip(blurred, 0.0, 1.0), np.float32)


def resized(image: Image, size: Size) -> Image:
    """A picture in another size, by Lanczos' filter of three lobes; the same bytes where it has it already."""
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.LANCZOS), np.uint8)


def laid_in(image: Image, region: Region, painted: Image, mask: Mask) -> Image:
    """A copy of the picture with a painted crop laid in: (1 - mask) of the picture, mask of the crop.

    Args:
        image: the picture.
        region: where the crop was cut out.
        painted: the crop in whatever size it was painted.
        mask: of the region's size.
    """
    height, width = region.size
    return place(image, region, lay_over(region.of(image), resized(painted, Size(width, height)), mask))
