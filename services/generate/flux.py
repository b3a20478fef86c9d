"""The GPU engine of generate.text_to_image: FLUX paints the scene from words, PuLID holds it to the subject's face."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from services.generate.stage import FluxParams
from shared.contracts.errors import InvalidInput
from shared.flux.decode import decode
from shared.flux.denoise import Away, Branch, Extra, Step, alone, denoise, start
from shared.flux.latents import noise
from shared.flux.parts import proper_name, with_requirements
from shared.flux.pulid.artifact import PulidIdentity, load_identity
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.weights import Pulid, published
from shared.flux.schedules import shift_for, sigmas
from shared.flux.speed import Speed
from shared.flux.studio import Painter, Studio
from shared.flux.text import PromptEmbedding
from shared.models.device import wanted_device
from shared.models.residency import Residency
from shared.models.settings import flux_speed, models_folder
from shared.models.shelf import Shelf
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""


@dataclass(frozen=True)
class Told:
    """What one branch of the sampling is held to: words, people, and what else speaks to the transformer."""

    words: PromptEmbedding
    people: tuple[Subject, ...] = ()
    extras: tuple[Extra, ...] = ()

    def branch(self) -> Branch:
        """The same as `denoise` takes it."""
        return Branch(self.words, IdentityCall(self.people).around if self.people else alone, self.extras)


class FluxGenerate:
    """Borrows its models of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where it computes, in bf16 on a GPU and in fp32 on a CPU; as the environment says where None.
        pulid: makes the empty PuLID; another than the published size is for tests.
        residency: where models are borrowed; the process's where None.
        speed: how FLUX is run; the settings `flux` where None.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str | None = None,
        pulid: Callable[[], Pulid] = published,
        residency: Residency | None = None,
        speed: Speed | None = None,
    ) -> None:
        self._folder = folder or models_folder()
        self._device = device or wanted_device()
        self._dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        self._speed = speed or flux_speed()
        self._studio = Studio(self._folder, self._device, self._dtype, residency, pulid, self._speed)
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
        who = _pulid_identity(work.one("identity"))
        if who is not None:
            _check_encoder(who, params.identity_model)
        told = Told(self._studio.prompt(params.model, params.prompt), self._people(who, "id", params))
        away = None
        if params.cfg != 1.0:
            words = self._studio.prompt(params.model, params.negative_prompt)
            away = Told(words, self._people(who, "uncond", params))
        identity_model = None if who is None else params.identity_model
        with self._studio.painting(params.model, identity_model, _strengths(params)) as painter:
            work.progress(_SHOWN_FROM)
            levels = noise_levels(params)
            x = start(noise(params.width, params.height, work.seed).to(self._device), levels)
            latent = sample(painter, params, x, levels, told, away, lambda step: work.progress(_share(step)))
            picture = decode(painter.vae, latent, self._speed.vae_tiled_from_px)
        facts: dict[str, JsonValue] = {
            "identity": identity_model or "none",
            "prompt_tokens_left_out": told.words.tokens_left_out,
        }
        return Outcome({"image": image_output(picture, "intermediate")}, facts)

    def _people(self, who: PulidIdentity | None, tokens: str, params: FluxParams) -> tuple[Subject, ...]:
        """Who is seen, by the identity's tokens of that name."""
        if who is None:
            return ()
        seen: Tensor = getattr(who, tokens)[None].to(self._device, self._dtype)
        return (Subject(tokens=seen, weight=params.identity_weight, start_step=params.identity_start_step),)


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


def _pulid_identity(blob: bytes) -> PulidIdentity | None:
    """PuLID's identity, or None where it is a portable engine's record, which is JSON and says nothing to FLUX.

    A safetensors blob starts with its header's length, a multiple of eight, so never with a brace.
    """
    return None if blob[:1] == b"{" else load_identity(blob, "identity")


def _check_encoder(who: PulidIdentity, model: str) -> None:
    made_by = who.about.models.get("idformer", model)
    if proper_name(made_by) != proper_name(model):
        raise InvalidInput(
            "identity_model",
            f"the identity was encoded by {made_by}, and {model} is to read it",
            "Name the same version of PuLID in both steps.",
        )
