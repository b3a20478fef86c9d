"""Shows the picture that FLUX foresees at each step, small and without the decoder."""

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import cv2

from shared.flux.decode import Previewer, previewer
from shared.flux.denoise import Step
from shared.vision.codec import Image

LONGEST_SIDE: Final = 128
QUALITY: Final = 80
"""Of the JPEG: at this even noise of 128 x 128 stays below the 16 KiB that a preview may have."""

_measured: WeakKeyDictionary[Any, Previewer] = WeakKeyDictionary()
"""Each autoencoder is measured once in its life."""


def shower(vae: Any, show: Callable[[bytes], None], every: int = 1) -> Callable[[Step], None]:
    """What shows the foreseen latents of a sampling, to be told each step as `denoise` does.

    Args:
        vae: the autoencoder that the picture will be decoded with, where it can compute: the first time it is seen,
            33 tiny latents are decoded.
        show: given each picture, a JPEG of the latent's height and width, or fewer pixels where the longer side would
            have more than LONGEST_SIDE. What it raises ends the sampling.
        every: of how many steps one is shown, beginning with the first; the last always is.
    """
    painter = _painter(vae)

    def tell(step: Step) -> None:
        if (step.number - 1) % every == 0 or step.number == step.count:
            show(_jpeg(painter.paint(step.foreseen)))

    return tell


def _painter(vae: Any) -> Previewer:
    painter = _measured.get(vae)
    if painter is None:
        painter = _measured[vae] = previewer(vae)
    return painter


def _jpeg(picture: Image) -> bytes:
    height, width = picture.shape[:2]
    share = LONGEST_SIDE / max(height, width)
    if share < 1:
        size = (max(1, round(width * share)), max(1, round(height * share)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(picture.dtype)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    return encoded.tobytes()
