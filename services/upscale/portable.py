"""The portable upscaler: Lanczos, the exact size, light sharpening."""

from collections.abc import Mapping

from services.upscale.resample import crop_to_aspect, hold_within, magnify, resize
from services.upscale.sharpen import unsharp
from services.upscale.stage import ImageParams
from shared.vision.codec import Image, decode
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHARPENED_SHARE = 0.45
"""Sigma of the sharpening in pixels of the picture that came in: about its finest detail."""


class PortableImage:
    """Enlarges by Lanczos resampling. Uses no weights."""

    def models(self, _: ImageParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[ImageParams]) -> Outcome:
        image = decode(work.one("image"))
        height, width = image.shape[:2]
        enlarged = enlarge(image, work.params)
        facts = {"from_width": width, "from_height": height, "width": work.params.width, "height": work.params.height}
        return Outcome({"image": image_output(enlarged, "result")}, facts)


def enlarge(image: Image, params: ImageParams) -> Image:
    """The picture at exactly the size asked for: cropped to its shape, magnified, brought to size, sharpened.

    Magnification beyond the final size would only blur, and does not happen.

    No value leaves the range that the picture itself shows around that place, so edges have no halos.
    """
    part = crop_to_aspect(image, params.width, params.height)
    growth = min(params.width / part.shape[1], params.height / part.shape[0])
    sized = resize(magnify(part, min(params.scale, growth)), params.width, params.height)
    shown, enlarged = (part, sized) if growth > 1 else (sized, sized.copy())
    if params.sharpen > 0:
        unsharp(enlarged, params.sharpen, _SHARPENED_SHARE * max(growth, 1.0))
    hold_within(enlarged, shown)
    return enlarged
