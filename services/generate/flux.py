"""The GPU engine of generate.text_to_image: FLUX paints the scene from words, PuLID holds it to the subject's face."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from pydantic import JsonValue
from torch import Tensor

from services.generate.stage import FluxParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.decode import decode, load_vae
from shared.flux.denoise import Around, Away, Branch, Step, alone, denoise, start
from shared.flux.latents import noise
from shared.flux.loading import Plan, footprint, free_memory, load_transformer, memory_plan, settle
from shared.flux.pulid.artifact import PulidIdentity, load_identity
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject, identity
from shared.flux.pulid.injection import Attachment, attach
from shared.flux.pulid.weights import Pulid, load_pulid, published
from shared.flux.schedules import shift_for, sigmas
from shared.flux.text import EncoderPaths, PromptEmbedding, PromptEncoder, load_encoders
from shared.models.catalogue import load_models
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

INDEX = "model_index.json"
"""What makes a folder a model in diffusers' layout."""

ROOM_FOR_ALL_BYTES = 44 * 10**9
"""From this memory on the text encoders (10 GB) stay on the device beside the transformer (24 GB) and its work."""

WORKING_BYTES = 8 * 10**9
"""What a run takes on the device beside the transformer's weights: PuLID, autoencoder, activations at 2048 x 2048."""

ROLE = "transformer"
"""What a step's `model` is."""

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""


class _Painter(NamedTuple):
    """What of a model stays on the device."""

    transformer: Any
    vae: Any


class Parts(NamedTuple):
    """Where the parts of a model lie; each a folder or a file."""

    transformer: Path
    vae: Path
    encoders: EncoderPaths


class FluxGenerate:
    """Keeps the model it used last. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where it computes, in bf16 on a GPU and in fp32 on a CPU; as the environment says where None.
        pulid: makes the empty PuLID; another than the published size is for tests.
    """

    def __init__(
        self, folder: Path | None = None, device: str | None = None, pulid: Callable[[], Pulid] = published
    ) -> None:
        self._folder = folder or models_folder()
        self._device = device or wanted_device()
        self._dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        self._build_pulid = pulid
        self._digests: dict[str, str] = {}
        self._model = ""
        self._prompts: PromptEncoder | None = None
        self._painter: _Painter | None = None
        self._attachment: Attachment | None = None
        self._identity_model = ""

    def models(self, params: FluxParams) -> Mapping[str, str]:
        """Those of them that are there; `run` says which is missing."""
        catalogue = load_models()
        names = [params.model, params.identity_model]
        if params.model in catalogue:
            names = [*(one.name for one in catalogue.with_requirements(params.model)), params.identity_model]
        for name in names:
            if name not in self._digests:
                digest = Shelf(self._folder).own_digest(name)
                if digest is not None:
                    self._digests[name] = digest
        return {name: self._digests[name] for name in names if name in self._digests}

    def run(self, work: Work[FluxParams]) -> Outcome:
        params = work.params
        who = _pulid_identity(work.one("identity"))
        if who is not None:
            _check_encoder(who, params.identity_model)
        prompts = self._use(params.model)
        positive = self._told(prompts, params.prompt)
        negative = self._told(prompts, params.negative_prompt) if params.cfg != 1.0 else None
        if not self._has_room_for_all():
            prompts.release()
        painter = self._paints_with(params.model)
        if who is not None:
            self._see(painter, params.identity_model)
        work.progress(_SHOWN_FROM)

        mu = shift_for(params.width, params.height) if params.shift is None else params.shift
        levels = sigmas(params.scheduler, params.steps, mu=mu).tolist()
        away = None
        if negative is not None:
            away = Away(Branch(negative, self._held_to(who, "uncond", params)), params.cfg, params.cfg_start_step)
        latent = denoise(
            painter.transformer,
            start(noise(params.width, params.height, work.seed).to(self._device), levels),
            levels,
            Branch(positive, self._held_to(who, "id", params)),
            params.guidance,
            away,
            lambda step: work.progress(_share(step)),
        )
        picture = decode(painter.vae, latent)
        facts: dict[str, JsonValue] = {
            "identity": "none" if who is None else params.identity_model,
            "prompt_tokens_left_out": positive.tokens_left_out,
        }
        return Outcome({"image": image_output(picture, "intermediate")}, facts)

    def _use(self, model: str) -> PromptEncoder:
        """Make `model` the one in use, and let go of another."""
        if self._prompts is None or self._model != model:
            where = parts(self._folder, model)
            require_device(self._device, torch_facts())
            self._painter, self._attachment, self._identity_model = None, None, ""
            self._prompts = PromptEncoder(lambda: load_encoders(where.encoders, self._text_device, self._dtype))
            self._model = model
        return self._prompts

    def _paints_with(self, model: str) -> _Painter:
        """The model on the device, or, where it does not fit, in host memory and brought there block by block."""
        if self._painter is None:
            where = parts(self._folder, model)
            plan = Plan.RESIDENT
            if self._device != "cpu":
                need = footprint(where.transformer, self._dtype)
                plan = memory_plan(need, WORKING_BYTES, free_memory(self._device))
            first = self._device if plan is Plan.RESIDENT else "cpu"
            transformer = load_transformer(where.transformer, self._dtype, first)
            settle(transformer, plan, self._device)
            self._painter = _Painter(transformer, load_vae(where.vae, self._dtype, self._device))
        return self._painter

    def _see(self, painter: _Painter, model: str) -> None:
        """Let the transformer see identities through these weights."""
        if self._identity_model == model:
            return
        path = self._folder / model / f"{model}.safetensors"
        if not path.is_file():
            raise Permanent(f"{path} is missing. `doctorgen models download {model}` brings it.")
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment, self._identity_model = None, ""
        pulid = load_pulid(path, self._dtype, self._device, self._build_pulid)
        self._attachment = attach(painter.transformer, cast(Sequence[PerceiverAttentionCA], list(pulid.pulid_ca)))
        self._identity_model = model

    def _told(self, prompts: PromptEncoder, words: str) -> PromptEmbedding:
        return prompts.encode(words).to(self._device, self._dtype)

    def _held_to(self, who: PulidIdentity | None, tokens: str, params: FluxParams) -> Around:
        """What each call of the transformer is made in, so that it sees the identity's tokens of that name."""
        if who is None:
            return alone
        seen: Tensor = getattr(who, tokens)[None].to(self._device, self._dtype)
        call = IdentityCall(
            [Subject(tokens=seen, weight=params.identity_weight, start_step=params.identity_start_step)]
        )

        def around(step: int, sigma: float) -> AbstractContextManager[None]:
            call.at(step, sigma)
            return identity(call)

        return around

    def _has_room_for_all(self) -> bool:
        return self._device == "cpu" or torch.cuda.mem_get_info(self._device)[1] >= ROOM_FOR_ALL_BYTES

    @property
    def _text_device(self) -> str:
        return self._device if self._has_room_for_all() else "cpu"


def _share(step: Step) -> float:
    return _SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * step.number / step.count


def _pulid_identity(blob: bytes) -> PulidIdentity | None:
    """PuLID's identity, or None where it is a portable engine's record, which is JSON and says nothing to FLUX.

    A safetensors blob starts with its header's length, a multiple of eight, so never with a brace.
    """
    return None if blob[:1] == b"{" else load_identity(blob, "identity")


def _check_encoder(who: PulidIdentity, model: str) -> None:
    made_by = who.about.models.get("idformer", model)
    if made_by != model:
        raise InvalidInput(
            "identity_model",
            f"the identity was encoded by {made_by}, and {model} is to read it",
            "Name the same version of PuLID in both steps.",
        )


def parts(folder: Path, model: str) -> Parts:
    """Where the parts of a model lie: in a folder in diffusers' layout, or in the single files of the catalogue.

    Raises:
        Permanent: a file is missing; says which command brings it.
        IntegrityError: one is cut short.
    """
    catalogue, shelf = load_models(), Shelf(folder)
    known = catalogue.named(model)
    if known is not None and known.role != ROLE:
        raise InvalidInput("model", f"{model} is a {known.role}", "Name a FLUX.1 transformer.")
    for one in () if known is None else catalogue.with_requirements(known.name):
        shelf.require(one)
    own = folder / (model if known is None else known.name)
    if (own / INDEX).is_file():
        encoders = EncoderPaths(own / "tokenizer", own / "text_encoder", own / "tokenizer_2", own / "text_encoder_2")
        return Parts(own, own / "vae", encoders)
    if known is None:
        raise Permanent(
            f"{own / INDEX} is missing. `doctorgen models download {model}` brings the weights of a model in the "
            "catalogue; put one of your own there in diffusers' layout, or name its folder with DOCTORGEN_MODELS_DIR."
        )

    def file(name: str) -> Path:
        one = catalogue.model(name)
        return shelf.path(one, shelf.loaded(one)[0])

    tokenizers = folder / "flux-tokenizers"
    encoders = EncoderPaths(tokenizers / "tokenizer", file("clip_l"), tokenizers / "tokenizer_2", file("t5xxl_fp16"))
    return Parts(file(known.name), file("ae"), encoders)
