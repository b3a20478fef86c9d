"""What paints with FLUX: a transformer, PuLID's modules in it, an autoencoder, and the adapters it has read."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.contracts.errors import InvalidInput
from shared.flux.loading import stored_bytes
from shared.flux.lora import drop_lora, load_lora, use_loras
from shared.flux.parts import adapter_file, proper_name
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.injection import Attachment
from shared.flux.speed import check_takes_loras
from shared.models.state import state_of

ADAPTERS_KEPT = 8
"""LoRA adapters that stay in a transformer, the ones used last: a hundred MB or more each."""


class Painter(nn.Module):
    """One resident, since its parts are needed at once.

    Attributes:
        transformer: a FluxTransformer2DModel, with seats for PuLID's modules.
        vae: diffusers' AutoencoderKL.
        attentions: PuLID's modules, of one identity model at a time.
        identity_model: its name and its files' state; None where there are none.
        lock: of whoever paints: adapters and caches are the transformer's, so one step at a time.
        adapters: LoRA adapters by their names and bytes, the least recently used first.
        places: what the transformer calls each of them.
        states: of their files when they were read.
        booked: the bytes it was said to take where it computes; None where its parts take turns there.
        sped_up: whether the settings of speed were applied.
        spoilt: whether it may be used no more.
    """

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        attentions: Sequence[PerceiverAttentionCA],
        booked: int | None,
        attachment: Attachment | None = None,
        identity_model: str | None = None,
    ) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.vae: Any = vae
        self.attentions = nn.ModuleList(attentions)
        self.lock = threading.Lock()
        self.adapters: OrderedDict[str, int] = OrderedDict()
        self.places: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.booked = booked
        self.sped_up = False
        self.spoilt = False
        self.identity_model = identity_model
        self._attachment = attachment

    def spoil(self) -> None:
        """Let go of all weights, whoever still holds it: an error's traceback does, and what comes next needs room."""
        self.spoilt = True
        for module in self.modules():
            for held in (module._parameters, module._buffers):  # noqa: SLF001 - nothing is to be used of them any more
                held.clear()

    def sees(self, identity_model: str) -> bool:
        """Whether its modules are this model's; those that were attached for good are whoever's made it."""
        return self.identity_model == identity_model or (self._attachment is None and len(self.attentions) > 0)

    def seat(self, attentions: Sequence[PerceiverAttentionCA], identity_model: str | None) -> None:
        """Have identities seen by these modules, on its device already, in place of those that were there.

        Raises:
            InvalidInput: they are another transformer's; or it takes none.
        """
        if self._attachment is None:
            raise InvalidInput(
                "identity_model", "this painter takes no identity modules", "Make it with an attachment."
            )
        self._attachment.seat(attentions)
        self.attentions = nn.ModuleList(attentions)
        self.identity_model = identity_model


@contextmanager
def in_force(
    painter: Painter, folder: Path, loras: Mapping[str, float], dtype: torch.dtype, book: Callable[[int], None]
) -> Iterator[None]:
    """With these adapters; afterwards all are at rest, which leaves no trace of them.

    Each is loaded once, and anew where its file was replaced.

    Args:
        painter: this caller's alone.
        folder: of the models.
        loras: strengths by the names of the adapters' folders.
        dtype: of the weights in memory.
        book: told how many bytes the painter is about to take more, or takes less.

    Raises:
        Permanent: an adapter is missing or of another model, or the settings of speed allow none.
        ResourceExhausted: `book` finds no room.
    """
    if not loras:
        yield
        return
    check_takes_loras(painter.transformer)
    strengths = {proper_name(name): strength for name, strength in loras.items()}
    try:
        for name in strengths:
            path = adapter_file(folder, name)
            state = state_of(path)
            if name in painter.adapters and painter.states[name] != state:
                _forget(painter, name, book)
            if name not in painter.adapters:
                painter.adapters[name] = _read(painter, path, name, dtype, book)
                painter.states[name] = state
            painter.adapters.move_to_end(name)
        use_loras(painter.transformer, {painter.places[name]: strength for name, strength in strengths.items()})
        yield
    finally:
        use_loras(painter.transformer, {})
        while len(painter.adapters) > ADAPTERS_KEPT:
            _forget(painter, next(iter(painter.adapters)), book)


def _read(painter: Painter, path: Path, name: str, dtype: torch.dtype, book: Callable[[int], None]) -> int:
    """Have an adapter in the transformer; its bytes."""
    size, place = stored_bytes(path, dtype), _free_place(painter)
    book(size)
    try:
        load_lora(painter.transformer, path, place)
    except BaseException:
        if place in getattr(painter.transformer, "peft_config", {}):
            drop_lora(painter.transformer, place)
        book(-size)
        raise
    painter.places[name] = place
    return size


def _forget(painter: Painter, name: str, book: Callable[[int], None]) -> None:
    size = painter.adapters.pop(name)
    drop_lora(painter.transformer, painter.places.pop(name))
    book(-size)


def _free_place(painter: Painter) -> str:
    """What to call the next adapter: of those few names the first that is free.

    PEFT makes it a part of the modules' names, and a compiler compiles the blocks again for a name that it has not met.
    """
    taken = set(painter.places.values())
    return next(place for place in map("adapter{}".format, count()) if place not in taken)
