"""The portable refiner: tone curve, local contrast and fine grain."""

from collections.abc import Mapping

import numpy as np

from services.refine.grain import add_grain
from services.refine.stage import PhotorealParams
from services.refine.tone import clarify, filmic
from shared.vision.blend import from_lab, to_lab
from shared.vision.codec import Image, decode
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work


class PortablePhotoreal:
    """Finishes a picture in Lab. Uses no weights."""

    def models(self, _: PhotorealParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[PhotorealParams]) -> Outcome:
        image = decode(work.one("image"))
        finished = finish(image, work.params, work.seed)
        facts = {"mean_before": round(float(image.mean()), 2), "mean_after": round(float(finished.mean()), 2)}
        return Outcome({"image": image_output(finished, "intermediate")}, facts)


def finish(image: Image, params: PhotorealParams, seed: int) -> Image:
    """The picture with the tone, the clarity and the grain of a photograph. Colour (a, b) stays as it is."""
    lab = to_lab(image)
    light = filmic(clarify(lab[..., 0].copy(), params.clarity), params.tone)
    lab[..., 0] = np.clip(add_grain(light, params.grain, params.grain_size, seed), 0, 100)
    return from_lab(lab)
