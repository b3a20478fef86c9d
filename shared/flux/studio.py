"""What the stages that paint with FLUX share in one process: told words, and a transformer with what belongs to it.

All of it is borrowed of a Residency, under keys that name weights and precision: who asks for the same gets the same
objects, whichever stage it is.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from shared.contracts.errors import DoctorGenError, Transient
from shared.flux.control_models import control_path, control_resident
from shared.flux.decode import load_vae
from shared.flux.ip_adapter import Style, adapter_paths, ip_adapter_resident, read_style, show_styles
from shared.flux.loading import footprint, load_transformer, settle, stored_bytes
from shared.flux.painter import Painter, in_force
from shared.flux.parts import Parts, parts, proper_name, with_requirements
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.injection import attach
from shared.flux.pulid.weights import builder_of, load_pulid, pulid_file
from shared.flux.residents import ModuleResident, bytes_of
from shared.flux.room import running_out
from shared.flux.speed import Speed, speed_up
from shared.flux.text import EncoderPaths, Encoders, PromptEmbedding, encode, load_encoders, memory_beside
from shared.flux.used import Used
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.memory import Plan, needs, plan_for
from shared.models.process import residency
from shared.models.residency import Residency, Resident
from shared.models.settings import flux_speed, models_folder
from shared.models.state import state_of
from shared.vision.codec import Image

BUFFERS_BYTES = 2**20
"""What text encoders hold besides the weights in their files: positions."""

PULID = "pulid_ca."
"""What the names of PuLID's attentions begin with; the rest of its file encodes photos."""


class Styles(NamedTuple):
    """What either branch of true guidance sees of a style."""

    picture: Style
    nothing: Style


class Studio:
    """Words and painters of the models in a folder.

    Args:
        folder: of the models.
        device: where they compute.
        dtype: of the weights in memory.
        borrow: where they are borrowed; the process's Residency where None, asked for when it is first needed.
        speed: how transformer and autoencoder are run.
        compiler: torch's compile backend, where blocks are compiled.

    Attributes:
        used: which weights and settings a step depends on.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        dtype: torch.dtype,
        borrow: Residency | None = None,
        speed: Speed | None = None,
        compiler: str = "inductor",
    ) -> None:
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.speed = speed or Speed()
        self.used = Used(folder, self.speed)
        self._compiler = compiler
        self._residency = borrow

    @property
    def residency(self) -> Residency:
        """Where it borrows."""
        return residency() if self._residency is None else self._residency

    def prompt(self, model: str, words: str) -> PromptEmbedding:
        """Words as a model's transformer reads them, on the device. The encoders are given back at once.

        Who borrows of the same Residency remembers together: they are borrowed for words that nobody there has told.

        Raises:
            InvalidInput, Permanent, IntegrityError: as `shared.flux.parts.parts`; or there is no such device.
            ResourceExhausted: there is no room for the encoders.
        """
        paths = self._parts(model).encoders
        key = f"{paths.clip} and {paths.t5}, {paths.state()}, {self._precision}"

        def made() -> PromptEmbedding:
            with self.residency.use(key, lambda: self._text_encoders(paths)) as encoders:
                return encode(encoders, words)

        return memory_beside(self.residency).recall((key, words), made).to(self.device, self.dtype)

    @contextmanager
    def painting(
        self,
        model: str,
        identity_model: str | None = None,
        loras: Mapping[str, float] | None = None,
        *,
        offloaded: bool = False,
    ) -> Iterator[Painter]:
        """A model's painter on the device, this caller's alone until the block ends. Hold no reference beyond.

        Args:
            model: the transformer's.
            identity_model: PuLID's weights; None where nobody is to be seen.
            loras: how strongly each adapter changes the transformer meanwhile. Afterwards it is bit by bit as before.
            offloaded: block by block from host memory even where it would fit, for a step that ran out of memory: the
                same bytes in more time. Settings of speed that need it whole on the device come first.

        Raises:
            InvalidInput, Permanent, IntegrityError: weights are missing, damaged or of another kind; there is no such
                device; the settings of speed cannot be had here.
            ResourceExhausted: there is no room; says what each plan would need, and nothing was loaded then. Or the
                device ran out of memory within the block.
            Transient: another step spoilt the painter that was waited for.
        """
        key = self.key(model, offloaded=offloaded)
        who = None if identity_model is None else proper_name(identity_model)
        made = partial(self.resident, model, who, offloaded=offloaded)
        with self.residency.use(key, made) as painter, painter.lock, running_out(self.residency, self.device):
            self._prepare(key, painter)
            if who is not None:
                self._see(key, painter, who)
            with in_force(painter, self.folder, loras or {}, self.dtype, partial(self.residency.grow, key)):
                yield painter

    @contextmanager
    def control(self, model: str) -> Iterator[Any]:
        """A ControlNet on the device until the block ends. To be entered before `painting`, which is held alone.

        Raises:
            InvalidInput, Permanent, IntegrityError: as `shared.flux.control_models.control_path`; or it is damaged.
            ResourceExhausted: there is no room.
        """
        path = control_path(self.folder, model)
        key = f"{path}, {state_of(path)}, {self._precision}"
        with self.residency.use(key, lambda: control_resident(path, self.dtype, self.device)) as net:
            yield net

    def styles(self, adapter: str, picture: Image) -> Styles:
        """A picture as an IP-Adapter reads it, and a black one. What reads them is given back at once.

        Raises:
            InvalidInput, Permanent, IntegrityError: as `shared.flux.ip_adapter.adapter_paths`; or a file is damaged.
            ResourceExhausted: there is no room.
        """
        paths = adapter_paths(self.folder, adapter)
        key = f"{paths.adapter}, {state_of(*paths)}, {self._precision}"
        with self.residency.use(key, lambda: ip_adapter_resident(*paths, self.dtype, self.device)) as reader:
            return Styles(read_style(reader, picture), read_style(reader, None))

    def key(self, model: str, *, offloaded: bool = False) -> str:
        """What the Residency knows a painter by: the same whoever is to be seen, another once weights were replaced.

        Identity modules are put into it when they are first asked for, and stay: without a subject they do nothing, bit
        by bit, and no second copy of the transformer is loaded.
        """
        speed = self.speed.model_dump_json(exclude_defaults=True)
        plan = "offloaded" if self._offloads(wanted=offloaded) else "as fits"
        state = state_of(*(self.folder / name for name in with_requirements(proper_name(model))))
        return f"{self.folder / proper_name(model)}, {state}, {self._precision}, {speed}, {plan}"

    def resident(self, model: str, identity_model: str | None = None, *, offloaded: bool = False) -> Resident[Painter]:
        """A model's painter, as `painting` borrows it under its key. Reads the files' headers.

        Whole on the device, or, where it does not fit, the transformer in host memory and its blocks in turns.

        Args:
            model: the transformer's.
            identity_model: the proper name of PuLID's weights that are in it from the start.
            offloaded: as of `painting`.

        Raises:
            InvalidInput, Permanent, IntegrityError, ResourceExhausted: as `painting`.
        """
        files = self._parts(model)
        beside = stored_bytes(files.vae, self.dtype)
        known = None
        if identity_model is not None:
            beside += self._identity_bytes(identity_model)
            known = self._known(identity_model)
        need = footprint(files.transformer, self.dtype)
        name = f"{model}{'' if identity_model is None else f' with {identity_model}'}, {self._precision}"
        first = Plan.GROUP_OFFLOAD if self._offloads(wanted=offloaded) else Plan.RESIDENT
        plan = plan_for(name, need, beside, self.residency.budget, first)
        whole = plan is Plan.RESIDENT

        def read() -> Painter:
            transformer: Any = load_transformer(files.transformer, self.dtype)
            attentions = [] if identity_model is None else self._identity(identity_model)
            attachment = attach(transformer, attentions)
            vae = load_vae(files.vae, self.dtype, "cpu")
            if not whole:
                settle(transformer, plan, self.device)
            booked = need.weights + beside if whole else None
            return Painter(transformer, vae, attentions, booked, attachment, known)

        return ModuleResident(
            name if whole else f"{name}, by {plan.value}",
            read,
            need.weights + beside,
            self.device,
            device_bytes=needs(need, beside)[plan].device_bytes,
            host_bytes=0 if whole else need.weights,
            moves=_everything if whole else _beside,
        )

    def _offloads(self, *, wanted: bool) -> bool:
        whole = self.speed.fused_qkv or self.speed.fp8 or self.speed.first_block_cache
        return self.speed.group_offload or (wanted and not whole)

    @property
    def _precision(self) -> str:
        return f"{self.dtype}".removeprefix("torch.") + f" on {self.device}"

    def _parts(self, model: str) -> Parts:
        found = parts(self.folder, model)
        require_device(self.device, torch_facts())
        return found

    def _text_encoders(self, paths: EncoderPaths) -> ModuleResident[Encoders]:
        """On the device, or, where that is too small for them, on the CPU."""
        size = stored_bytes(paths.clip, self.dtype) + stored_bytes(paths.t5, self.dtype) + BUFFERS_BYTES
        fits = size <= self.residency.budget.device_bytes
        return ModuleResident(
            f"text encoders {paths.t5.parent.name}/{paths.t5.name}, {self._precision}",
            lambda: load_encoders(paths, "cpu", self.dtype),
            size,
            self.device if fits else "cpu",
            device_bytes=size if fits else 0,
            host_bytes=0 if fits else size,
        )

    def _see(self, key: str, painter: Painter, identity_model: str) -> None:
        """Have an identity model's modules in a painter that is on the device, in place of another's.

        Raises:
            InvalidInput, Permanent, IntegrityError: they are missing, damaged or another transformer's.
            ResourceExhausted: there is no room for them. Either way there are none in it then.
        """
        known = self._known(identity_model)
        if painter.sees(known):
            return
        size = self._identity_bytes(identity_model)
        if painter.identity_model is not None:
            gone = bytes_of(painter.attentions)
            painter.seat([], None)
            self.residency.grow(key, -gone)
        self.residency.grow(key, size)
        try:
            painter.seat([one.to(self.device) for one in self._identity(identity_model)], known)
        except BaseException:
            self.residency.grow(key, -size)
            raise

    def _known(self, identity_model: str) -> str:
        """What a painter knows an identity model by: another once its files were replaced."""
        return f"{identity_model}, {state_of(self.folder / identity_model)}"

    def _identity_bytes(self, identity_model: str) -> int:
        """Of the modules, without what encodes photos."""
        path = pulid_file(self.folder, identity_model)
        return stored_bytes(path, self.dtype, lambda name: name.startswith(PULID))

    def _identity(self, identity_model: str) -> list[PerceiverAttentionCA]:
        """The modules, in host memory."""
        path, build = pulid_file(self.folder, identity_model), builder_of(self.folder, identity_model)
        return cast(list[PerceiverAttentionCA], list(load_pulid(path, self.dtype, "cpu", build).pulid_ca))

    def _prepare(self, key: str, painter: Painter) -> None:
        """Once, on the device: apply the settings of speed, and book what it takes then, which may be less.

        Where that fails half-way the painter is dropped, so that the next step begins with one that nothing changed.

        Raises:
            Permanent: as `speed_up`.
            Transient: another step has spoilt this painter; there will be a new one.
        """
        if painter.spoilt:
            raise Transient("the settings of flux failed half-way in another step; the model is being loaded anew")
        if painter.sped_up:
            return
        try:
            if self.speed.compiled_blocks:
                show_styles(painter.transformer)  # else the first step with a style would compile it all again
            speed_up(painter.transformer, painter.vae, self.speed, self._compiler)
        except DoctorGenError:  # told before anything was changed
            raise
        except BaseException:
            self.residency.spoil(key)
            painter.spoil()
            raise
        painter.sped_up = True
        if painter.booked is not None:
            self.residency.grow(key, bytes_of(painter) - painter.booked)


def studio_of(
    folder: Path | None = None,
    device: str | None = None,
    borrow: Residency | None = None,
    speed: Speed | None = None,
) -> Studio:
    """The Studio of this machine, as its settings and its environment say, but for what is given.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where they compute, in bf16 on a GPU and in fp32 on a CPU; as the environment says where None.
        borrow: where they are borrowed; the process's Residency where None.
        speed: how they are run; the settings `flux` where None.
    """
    device = device or wanted_device()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return Studio(folder or models_folder(), device, dtype, borrow, speed or flux_speed())


def _everything(painter: Painter) -> nn.Module:
    return painter


def _beside(painter: Painter) -> nn.Module:
    return nn.ModuleList([painter.vae, painter.attentions])
