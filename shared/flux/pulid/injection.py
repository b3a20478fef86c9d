"""PuLID's cross-attentions within diffusers' FluxTransformer2DModel (0.42).

Source: PuLID for FLUX, https://github.com/ToTheBeginning/PuLID: after every second double-stream block and every
fourth single-stream block, `image <- image + weight * attention(identity, image)`.

The blocks' `forward` is replaced, not hooked: diffusers' caches replace `forward` too, and hold back the whole of what
they find. What a cache skips then skips the identity as well, and what it repeats holds it once. So attach first,
then enable a cache, then compile.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from shared.contracts.errors import InvalidInput
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import NOBODY, Frame, Presence, current_frame

DOUBLE_INTERVAL = 2
SINGLE_INTERVAL = 4
_KEY = "pulid_frame"

Forward = Callable[..., Any]


class Seat:
    """After a block: the cross-attention by which identities are seen there. Without one nobody can be."""

    def __init__(self) -> None:
        self.attention: PerceiverAttentionCA | None = None


class Attachment:
    """A transformer whose blocks see identities; `detach` makes it what it was.

    Args:
        transformer: a FluxTransformer2DModel.
        seats: one for each of `sites(transformer)`.
    """

    def __init__(self, transformer: Any, seats: Sequence[Seat]) -> None:
        self._transformer: Any = transformer
        self._seats = seats
        self._replaced: list[tuple[nn.Module, Forward, Forward | None]] = []

    def seat(self, attentions: Sequence[PerceiverAttentionCA]) -> None:
        """Have identities seen by these modules from now on, and by no others; by none, where there are none.

        At any time: what caches and compilers laid over the blocks looks for them in their seats.

        Raises:
            InvalidInput: their number or width does not match.
        """
        if attentions:
            _check_modules(self._transformer, attentions)
        for seat, attention in zip_longest(self._seats, attentions):
            seat.attention = attention

    def replace(self, module: nn.Module, forward: Forward) -> None:
        """Let `module` run `forward`, and remember what it ran before."""
        before: Forward | None = module.__dict__.get("forward")
        module.forward = forward
        self._replaced.append((module, forward, before))

    def detach(self) -> None:
        """Put every `forward` back. A second time it does nothing.

        Raises:
            InvalidInput: a cache or an offloading hook was laid over and is still there; nothing has been changed.
        """
        if any(module.forward is not forward for module, forward, _ in self._replaced):
            found = "something was laid over its blocks after PuLID was attached"
            raise InvalidInput("transformer", found, "Disable caches and remove hooks first, then detach.")
        for module, _, before in self._replaced:
            if before is None:
                del module.forward
            else:
                module.forward = before
        self._replaced.clear()


def sites(transformer: Any) -> list[nn.Module]:
    """The blocks after which identities are seen, in the order of the published modules: 10 + 10 in FLUX.1."""
    return [
        *list(transformer.transformer_blocks)[::DOUBLE_INTERVAL],
        *list(transformer.single_transformer_blocks)[::SINGLE_INTERVAL],
    ]


def attach(transformer: Any, attentions: Sequence[PerceiverAttentionCA] = ()) -> Attachment:
    """Let a transformer see the identities of `shared.flux.pulid.context.identity`. Before caching and compiling.

    The modules stay the caller's: they are not registered with the transformer, and must be on its device.

    Args:
        transformer: a FluxTransformer2DModel.
        attentions: one for each of `sites(transformer)`; none where they are seated later (`Attachment.seat`).

    Raises:
        InvalidInput: the number or width of the modules does not match, PuLID is attached already, or a cache is
            enabled, which would then not see the identity.
    """
    if attentions:
        _check_modules(transformer, attentions)
    _check_fresh(transformer)
    seats = {block: Seat() for block in sites(transformer)}
    attachment = Attachment(transformer, list(seats.values()))
    attachment.seat(attentions)
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        seat = seats.get(block)
        attachment.replace(block, _passing(block.forward) if seat is None else _seeing(block.forward, seat))
    attachment.replace(transformer, _handing_down(transformer.forward, next(iter(seats.values()))))
    return attachment


def injected(attention: PerceiverAttentionCA, image: Tensor, frame: Frame) -> Tensor:
    """The image tokens [B, T, D] with every subject of the frame added by one of the cross-attentions.

    Raises:
        InvalidInput: a subject's batch, width, mask or items do not fit the image, or the frame's image tokens.
    """
    if not frame.present:
        return image
    count = image.shape[1] if frame.image_tokens is None else frame.image_tokens
    if count > image.shape[1]:
        found = f"is {count}, but the model was given {image.shape[1]}"
        raise InvalidInput("image_tokens", found, "Count the tokens of the image alone.")
    seen = image[:, :count]
    touched = seen
    for one in frame.present:
        touched = touched + _contribution(attention, seen, one)
    return touched if count == image.shape[1] else torch.cat([touched, image[:, count:]], dim=1)


def _contribution(attention: PerceiverAttentionCA, image: Tensor, one: Presence) -> Tensor:
    batch, count, _ = image.shape
    if one.tokens.shape[0] not in {1, batch}:
        found = f"are of {one.tokens.shape[0]} images, but the model was given {batch}"
        raise InvalidInput("tokens", found, "Pass the tokens of one subject, or one subject per image.")
    if (one.tokens.shape[-1],) != attention.norm1.normalized_shape:
        found = f"are {one.tokens.shape[-1]} wide, but the modules want {attention.norm1.normalized_shape[0]}"
        raise InvalidInput("tokens", found, "Pass what the encoder of the same PuLID weights made.")
    tokens = one.tokens.to(image.dtype).expand(batch, -1, -1)
    answer: Tensor = one.weight * attention(tokens, image)
    if one.items is not None:
        if one.items.shape[0] != batch:
            found = f"are for {one.items.shape[0]} images, but the model was given {batch}"
            raise InvalidInput("items", found, "Pass one number per image of the batch.")
        answer = answer * one.items.to(image.dtype)[:, None, None]
    if one.mask is None:
        return answer
    if one.mask.shape[0] != count:
        found = f"covers {one.mask.shape[0]} tokens, but the image has {count}"
        raise InvalidInput("mask", found, "Scale it to the image's tokens (one per 16 x 16 pixels), row by row.")
    return answer * one.mask.to(image.dtype)[:, None]


def _handing_down(original: Forward, first: Seat) -> Forward:
    """Read the context once, outside of any compiled block, and hand it down as an argument."""

    @wraps(original)
    def forward(*args: Any, joint_attention_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        frame = current_frame()
        if frame.present and first.attention is None:
            raise InvalidInput("identity", "the transformer has no identity modules", "Seat them first.")
        handed = {**(joint_attention_kwargs or {}), _KEY: frame}
        return original(*args, joint_attention_kwargs=handed, **kwargs)

    forward.__dict__[_KEY] = True
    return forward


def _passing(original: Forward) -> Forward:
    """A block after which nobody is seen: it takes the frame out of the arguments, since its attention knows none.

    Both kinds of block take text and image apart and return (text, image), though the single-stream one concatenates
    them within.
    """

    @wraps(original)
    def forward(
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        rest = {name: one for name, one in (joint_attention_kwargs or {}).items() if name != _KEY}
        text, image = original(hidden_states, encoder_hidden_states, temb, image_rotary_emb, rest)
        return _packed(text), _packed(image)

    return forward


def _seeing(original: Forward, seat: Seat) -> Forward:
    """A block after which the frame's subjects are seen. Without subjects nobody looks who sits there.

    A function of its own: PyTorch counts how often it compiles one, and gives up at `recompile_limit`.
    """

    @wraps(original)
    def forward(
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        rest = dict(joint_attention_kwargs or {})
        frame: Frame = rest.pop(_KEY, NOBODY)
        text, image = original(hidden_states, encoder_hidden_states, temb, image_rotary_emb, rest)
        if frame.present and seat.attention is not None:
            image = injected(seat.attention, image, frame)
        return _packed(text), _packed(image)

    return forward


def _packed(tokens: Tensor) -> Tensor:
    """The same [B, T, D] with the strides of a tensor of its own; for one image no copy.

    Single-stream blocks return views of text and image together. Left so, a compiler would compile each block once for
    every kind of block that can come before.
    """
    return tokens.flatten(0, 1).view(tokens.shape)


def _check_modules(transformer: Any, attentions: Sequence[PerceiverAttentionCA]) -> None:
    places = sites(transformer)
    if len(attentions) != len(places):
        doubles, singles = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
        found = f"there are {len(attentions)}, but {doubles} double and {singles} single blocks want {len(places)}"
        raise InvalidInput("attentions", found, "Load the PuLID weights that were made for this model.")
    for attention in attentions:
        if attention.norm2.normalized_shape != (transformer.inner_dim,):
            found = f"are made for width {attention.norm2.normalized_shape[0]}, the model has {transformer.inner_dim}"
            raise InvalidInput("attentions", found, "Load the PuLID weights that were made for this model.")


def _check_fresh(transformer: Any) -> None:
    if hasattr(transformer.forward, _KEY):
        raise InvalidInput("transformer", "PuLID is attached to it already", "Detach it first.")
    if transformer.is_cache_enabled:
        raise InvalidInput("transformer", "a cache is enabled", "Attach PuLID first, then enable the cache.")
