"""Who is to be seen in one call of a FLUX model: held by the call, never by the model that many calls share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from shared.contracts.errors import InvalidInput

ROUNDING = 1e-6
"""A schedule in fp32 and a window in fp64 mean the same noise level when they differ by no more."""


class Subject(BaseModel):
    """One person in the image, and when and where they act.

    Attributes:
        tokens: [1, N, 2048] or [B, N, 2048] identity tokens as IDFormer makes them, on the model's device.
        weight: 0 is without the person, 1 as published, 3 the most that is of use.
        start_step: the first denoising step, from 0, at which the person acts. 4 is advised for photographs, 0 or 1
            for what is stylised.
        sigma_start: acts where the noise level is at most this. None: from the beginning.
        sigma_end: acts where the noise level is at least this. None: to the end.
        mask: [T], 0 to 1, over the image's tokens row by row; None is everywhere.
        items: [B], 0 to 1, in which of the images of a batch the person acts; None is in all of them. An image with 0
            is, bit by bit, as if there were nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    tokens: Tensor
    weight: Annotated[float, Field(ge=0.0, le=5.0, allow_inf_nan=False)] = 1.0
    start_step: Annotated[int, Field(ge=0)] = 0
    sigma_start: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    sigma_end: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    mask: Tensor | None = None
    items: Tensor | None = None

    def weight_at(self, step: int, sigma: float | None) -> float:
        """The weight at a denoising step, 0 outside the window.

        Raises:
            InvalidInput: the window is one of noise levels, and `sigma` is None.
        """
        if self.sigma_start is not None or self.sigma_end is not None:
            if sigma is None:
                found = "is not told, though a subject's window is one of noise levels"
                raise InvalidInput("sigma", found, "Pass the present one.")
            first = 1.0 if self.sigma_start is None else self.sigma_start
            last = 0.0 if self.sigma_end is None else self.sigma_end
            if not last - ROUNDING <= sigma <= first + ROUNDING:
                return 0.0
        return self.weight if step >= self.start_step else 0.0


class Presence(NamedTuple):
    """What a block needs of one subject: tokens [1 or B, N, D], the present weight (0-d), mask [T], items [B]."""

    tokens: Tensor
    weight: Tensor
    mask: Tensor | None
    items: Tensor | None = None


@dataclass
class Frame:
    """What a block needs at one denoising step.

    No tuple: a compiler looks into tuples wherever they pass, and compiles again for another number of subjects even
    those blocks that only pass it by.
    """

    present: tuple[Presence, ...]
    image_tokens: int | None


NOBODY = Frame((), None)


class IdentityCall:
    """The subjects of one call, and the denoising step that it has come to. Belongs to one thread.

    Args:
        subjects: who is to be seen; their contributions add up.
        step: the denoising step, from 0, that comes first.
        sigma: its noise level; needed where a subject's window is one of noise levels.
        image_tokens: how many of the model's image tokens are the image. What follows them (the references of
            FLUX.1 Kontext) is left alone. None: all of them.

    Raises:
        InvalidInput: a subject's tokens, mask or items have the wrong number of axes, or `sigma` is wanted.
    """

    def __init__(
        self, subjects: Sequence[Subject], step: int = 0, sigma: float | None = None, image_tokens: int | None = None
    ) -> None:
        for subject in subjects:
            _check(subject)
        self.subjects = tuple(subjects)
        self.image_tokens = image_tokens
        self.at(step, sigma)

    def at(self, step: int, sigma: float | None = None) -> None:
        """Go to a denoising step. To be called before the model is, at every step.

        The weight is a tensor, so that a compiled model takes another one, or none, without being compiled again.
        """
        present = tuple(
            Presence(
                one.tokens,
                torch.full((), one.weight_at(step, sigma), dtype=torch.float32, device=one.tokens.device),
                one.mask,
                one.items,
            )
            for one in self.subjects
        )
        self.frame = Frame(present, self.image_tokens)

    @contextmanager
    def around(self, step: int, sigma: float | None = None) -> Iterator[None]:
        """Go to a denoising step and let the models called within see it: `shared.flux.denoise.Branch.around`."""
        self.at(step, sigma)
        with identity(self):
            yield


_current: ContextVar[IdentityCall | None] = ContextVar("identity", default=None)


@contextmanager
def identity(call: IdentityCall | None) -> Iterator[None]:
    """Let the models called in this thread or task see `call`'s subjects. The innermost counts; None is nobody.

    With true classifier-free guidance the negative branch is called within a context of its own, whose subject has
    the unconditional tokens.
    """
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]  # a compiler would take today's for always
def current_frame() -> Frame:
    """What the innermost `identity` shows at its present step; an empty frame outside of any."""
    call = _current.get()
    return NOBODY if call is None else call.frame


def _check(subject: Subject) -> None:
    if subject.tokens.ndim != 3:
        found = f"has the shape {tuple(subject.tokens.shape)}"
        raise InvalidInput("tokens", found, "Pass identity tokens as [batch, tokens, width].")
    if subject.mask is not None and subject.mask.ndim != 1:
        found = f"has the shape {tuple(subject.mask.shape)}"
        raise InvalidInput("mask", found, "Pass one number per image token, row by row.")
    if subject.items is not None and subject.items.ndim != 1:
        found = f"has the shape {tuple(subject.items.shape)}"
        raise InvalidInput("items", found, "Pass one number per image of the batch.")
