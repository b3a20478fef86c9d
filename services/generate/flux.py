"""The GPU engine of generate.text_to_image: FLUX paints the scene from words, PuLID holds it to the subject's face."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal

import torch
from pydantic import JsonValue
from torch import Tensor

from services.generate.stage import FluxParams
from shared.flux.decode import decode
from shared.flux.denoise import Away, Step, denoise, start
from shared.flux.latents import noise
from shared.flux.parts import proper_name, with_requirements
from shared.flux.pulid.artifact import PulidIdentity
from shared.flux.regions import subjects
from shared.flux.schedules import shift_for, sigmas
from shared.flux.speed import Speed
from shared.flux.studio import Painter, Studio
from shared.flux.told import Told, identity_in
from shared.models.device import wanted_device
from shared.models.residency import Residency
from shared.models.settings import flux_speed, models_folder
from shared.models.shelf import Shelf
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""


class FluxGenerate:
    """Borrows its models of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where it computes, in bf16 on a GPU and in fp32 on a CPU; as the environment says where None.
        residency: where models are borrowed; the process's where None.
        speed: how FLUX is run; the settings `flux` where None.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str | None = None,
        residency: Residency | None = None,
        speed: Speed | None = None,
    ) -> None:
        self._folder = folder or models_folder()
        self._device = device or wanted_device()
        self._dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        self._speed = speed or flux_speed()
        self._studio = Studio(self._folder, self._device, self._dtype, residency, self._speed)
        self._digests: dict[str, str] = {}

    def models(self, params: FluxParams) -> Mapping[str, str]:
        """Those of them that are there; `run` says which is missing. With them the settings that change pictures."""
        names = [*with_requirements(params.model), proper_name(params.identity_model), *_strengths(params)]
        for name in names:
            if name not in self._digests:
                digest = Shelf(self._folder).own_digest(name)
                if digest is not None:
                    self._digests[name] = digest
        found = {name: self._digests[name] for name in names if name in self._digests}
        return {**found, **self._speed.digests(proper_name(params.model))}

    def resident_keys(self, params: FluxParams) -> AbstractSet[str]:
        """The transformer with its identity modules. Words are often remembered, so text encoders are not named."""
        return frozenset({self._studio.key(params.model, params.identity_model)})

    def run(self, work: Work[FluxParams]) -> Outcome:
        params = work.params
        who = identity_in(work.one("identity"), "identity", params.identity_model)
        people = [] if who is None else [who]
        told = self._told(params.prompt, people, "id", params)
        away = self._told(params.negative_prompt, people, "uncond", params) if params.cfg != 1.0 else None
        identity_model = params.identity_model if people else None
        with self._studio.painting(
            params.model, identity_model, _strengths(params), offloaded=work.plan > 0
        ) as painter:
            work.progress(_SHOWN_FROM)
            levels = noise_levels(params)
            x = start(noise(params.width, params.height, work.seed).to(self._device), levels)
            latent = sample(painter, params, x, levels, told, away, lambda step: work.progress(_share(step)))
            picture = decode(painter.vae, latent)
        facts: dict[str, JsonValue] = {
            "identity": identity_model or "none",
            "prompt_tokens_left_out": told.words.tokens_left_out,
        }
        return Outcome({"image": image_output(picture, "intermediate")}, facts)

    def _told(
        self, words: str, people: list[PulidIdentity], tokens: Literal["id", "uncond"], params: FluxParams
    ) -> Told:
        """Words, and the people by their own tokens or by nobody's."""
        size = (params.width, params.height)
        weight, start_step = params.identity_weight, params.identity_start_step
        seen = subjects(people, (), weight, start_step, *size, self._device, self._dtype, tokens)
        return Told(self._studio.prompt(params.model, words), tuple(seen))


def noise_levels(params: FluxParams) -> list[float]:
    """The schedule's sigmas, one more than there are steps."""
    mu = shift_for(params.width, params.height) if params.shift is None else params.shift
    levels: list[float] = sigmas(params.scheduler, params.steps, mu=mu).tolist()
    return levels


def sample(
    painter: Painter,
    params: FluxParams,
    x: Tensor,
    levels: list[float],
    told: Told,
    away: Told | None,
    on_step: Callable[[Step], None],
) -> Tensor:
    """From a latent noised to the first of the levels to the picture's, led to what is told and away from the other."""
    negative = None if away is None else Away(away.branch(), params.cfg, params.cfg_start_step)
    return denoise(painter.transformer, x, levels, told.branch(), params.guidance, negative, on_step)


def _share(step: Step) -> float:
    return _SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * step.number / step.count


def _strengths(params: FluxParams) -> dict[str, float]:
    """How strongly each adapter acts, by its proper name; of one that is named twice the sum."""
    found: dict[str, float] = {}
    for lora in params.loras:
        name = proper_name(lora.model)
        found[name] = found.get(name, 0.0) + lora.strength
    return found
