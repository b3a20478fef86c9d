"""The GPU engine of refine: a photographic fine-tune of FLUX paints the picture anew, from a little noise on.

Nobody's identity takes part: PuLID was trained with FLUX.1 [dev] itself, and full fine-tunes weaken it. What keeps the
person is how little noise is laid over the picture.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from services.refine.sampling import denoise_in_tiles
from services.refine.stage import FluxPhotorealParams
from services.refine.tiles import tiles
from shared.contracts.errors import Permanent
from shared.flux.decode import decode, encode
from shared.flux.denoise import Away, Branch, Step, start
from shared.flux.latents import PIXELS_PER_LATENT, PIXELS_PER_TOKEN, noise
from shared.flux.levels import noise_levels
from shared.flux.painter import Painter
from shared.flux.parts import proper_name
from shared.flux.preview import shower
from shared.flux.studio import Studio, studio_of
from shared.flux.used import strengths
from shared.vision.codec import Image
from shared.vision.codec import decode as read
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""

PREVIEWS = 10
"""How often the picture is shown on its way, about."""


class FluxPhotoreal:
    """Borrows its models of the process's Residency. One step at a time.

    Args:
        studio: of whom it borrows; this machine's, as its settings say, where None.
    """

    def __init__(self, studio: Studio | None = None) -> None:
        self._studio = studio or studio_of()

    def models(self, params: FluxPhotorealParams) -> Mapping[str, str]:
        """Those of them that are there; `run` says which is missing. With them the settings that change pictures."""
        return self._studio.used.models(params)

    def resident_keys(self, params: FluxPhotorealParams) -> AbstractSet[str]:
        """The transformer with its autoencoder. Words are often remembered, so text encoders are not named."""
        return frozenset({self._studio.key(params.model)})

    def run(self, work: Work[FluxPhotorealParams]) -> Outcome:
        """Output `image`, of the input's size. The noise is the whole picture's, so that tiles agree.

        Raises:
            InvalidInput: the picture cannot be read.
            Permanent: weights are missing, damaged or of another kind, or give what are no numbers.
            ResourceExhausted: there is no room for them.
        """
        params = work.params
        given = read(work.one("image"))
        image = padded(given)
        height, width = image.shape[:2]
        words = self._studio.prompt(params.model, params.prompt)
        others = self._studio.prompt(params.model, params.negative_prompt) if params.cfg != 1.0 else None
        # a shift that is taken from the size is a tile's: that is what the transformer sees at once
        levels = noise_levels(params, min(width, params.tile), min(height, params.tile), params.denoise)
        side, overlap = params.tile // PIXELS_PER_LATENT, params.overlap // PIXELS_PER_LATENT
        cut = tiles(height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT, side, overlap)
        with self._studio.painting(params.model, None, strengths(params), offloaded=work.plan > 0) as painter:
            work.progress(_SHOWN_FROM)
            known = encode(painter.vae, image, self._studio.speed.vae_tiled_from_px).to(self._studio.device)
            _check_finite(f"the autoencoder of {params.model}", known)
            latent = denoise_in_tiles(
                painter.transformer,
                start(noise(width, height, work.seed).to(self._studio.device), levels, known),
                levels,
                cut,
                overlap,
                Branch(words),
                params.guidance,
                None if others is None else Away(Branch(others), params.cfg, params.cfg_start_step),
                _shower(painter, work),
                lambda share: work.progress(_SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * share),
            )
            _check_finite(params.model, latent)
            picture = self._decoded(painter, latent, params.model)
        finished: Image = np.ascontiguousarray(picture[: given.shape[0], : given.shape[1]])
        facts: dict[str, JsonValue] = {
            "model": proper_name(params.model),
            "first_sigma": round(levels[0], 6),
            "last_sigma": round(levels[-2], 6),
            "steps": len(levels) - 1,
            "tiles": len(cut),
            "prompt_tokens_left_out": words.tokens_left_out,
        }
        return Outcome({"image": image_output(finished, "intermediate")}, facts)

    def _decoded(self, painter: Painter, latent: Tensor, model: str) -> Image:
        try:
            return decode(painter.vae, latent, self._studio.speed.vae_tiled_from_px)
        except Permanent as error:
            raise Permanent(f"the autoencoder of {model}: {error}") from error


def padded(image: Image) -> Image:
    """A picture with sides that FLUX can paint: mirrored at its right and lower edge, never resized."""
    more = [-side % PIXELS_PER_TOKEN for side in image.shape[:2]]
    return np.pad(image, [(0, more[0]), (0, more[1]), (0, 0)], "symmetric")


def _shower(painter: Painter, work: Work[FluxPhotorealParams]) -> Callable[[Step], None]:
    """What shows the picture now and then."""
    return shower(painter.vae, work.show, every=max(1, work.params.steps // PREVIEWS))


def _check_finite(what: str, values: Tensor) -> None:
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise Permanent(
            f"{what} gave {broken} of {values.numel()} values that are no finite numbers, which would show as black. "
            "Check the weights with `doctorgen models verify`, or name another model."
        )
