"""From noise to a latent picture: Euler's method along the flow that a FLUX transformer predicts.

    x' = x + (sigma' - sigma) * v(x, sigma)

Sigma is the share of noise in x, from 1 to 0, and v points from the picture to the noise, so that x - sigma * v is
the picture as it is foreseen at this step. Latents, sigmas and time steps stay in fp32 whatever the transformer's own
dtype; diffusers' pipelines round all three to it, which in bf16 moves a time step by up to 2 of 1000.

Several latents of one size may be sampled at once, each as if it were alone: in fp32 within 1e-5, since products of
larger matrices add up in another order. A cache of earlier steps, though, decides for all of them together.

Sources: Y. Lipman et al., "Flow Matching for Generative Modeling", 2022; J. Ho, T. Salimans, "Classifier-Free Diffusion
Guidance", 2022; diffusers `FluxPipeline`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.hooks import HookRegistry
from torch import Tensor

from shared.contracts.errors import InvalidInput
from shared.flux.latents import image_ids, pack, unpack
from shared.flux.scheduler import unrounded
from shared.flux.text import PromptEmbedding

Around = Callable[[int, float], AbstractContextManager[object]]
"""Of a step's number and its sigma, what the transformer's call is made in: an identity to be held to, for instance."""


SHARED = "joint_attention_kwargs"
"""The one argument of a transformer in which several extras may each say something."""


def alone(_step: int, _sigma: float) -> AbstractContextManager[object]:
    """Nothing around a call."""
    return nullcontext()


@dataclass(frozen=True)
class Call:
    """What the transformer is about to be given, and when.

    Attributes:
        hidden_states: [B, tokens, 4 C], the noised latents in patches; this and the next prompts in the model's dtype.
        timestep: [B] in fp32, sigma; the model multiplies it by 1000.
        guidance: [B] in fp32, None where the transformer knows none.
        pooled_projections: [B, width].
        encoder_hidden_states: [B, words, width].
        txt_ids: [words, 3].
        img_ids: [tokens, 3].
        step: the step's number, counted from 0.
        count: how many steps there are in all.
        sigma: the share of noise.
        guidance_scale: the distilled guidance, for models beside that may know it where the transformer does not.
    """

    hidden_states: Tensor
    timestep: Tensor
    guidance: Tensor | None
    pooled_projections: Tensor
    encoder_hidden_states: Tensor
    txt_ids: Tensor
    img_ids: Tensor
    step: int
    count: int
    sigma: float
    guidance_scale: float


class Extra(Protocol):
    """What else a prediction is held to: a model beside the transformer, that speaks to it by its arguments."""

    def __call__(self, call: Call, /) -> Mapping[str, Any]:
        """Further keyword arguments for this call of the transformer; those in `joint_attention_kwargs` are merged."""


@dataclass(frozen=True)
class Branch:
    """What a prediction is held to: words, on the transformer's device and in the dtype it computes in, and more.

    Attributes:
        prompt: the words, for all the latents of a batch or for each its own (`shared.flux.text.together`).
        around: what each call is made in.
        extras: asked before each call, in this order and outside of `around`.
    """

    prompt: PromptEmbedding
    around: Around = alone
    extras: tuple[Extra, ...] = ()


@dataclass(frozen=True)
class Away:
    """True classifier-free guidance: steps are led away from a negative branch. Each then costs two predictions.

    Attributes:
        branch: what to lead away from; its `around` alone is entered for its predictions.
        cfg: how far. 1 is not at all.
        start_step: the first step that it is done for, counted from 0.
    """

    branch: Branch
    cfg: float
    start_step: int = 0


@dataclass(frozen=True)
class Step:
    """A step that has been taken.

    Attributes:
        number: counted from 1.
        count: how many there are in all.
        sigma: before the step.
        foreseen: [B, C, h, w] in fp32, the latents that this step's prediction leads to.
    """

    number: int
    count: int
    sigma: float
    foreseen: Tensor


def start(noise: Tensor, sigmas: Sequence[float], latent: Tensor | None = None) -> Tensor:
    """Where sampling starts: of the latent as much as the first sigma leaves, the rest noise; all [B, C, h, w] in fp32.

    Without a latent the whole is noise, as if the first sigma were 1.
    """
    return noise if latent is None else sigmas[0] * noise + (1.0 - sigmas[0]) * latent


@torch.no_grad()
def denoise(
    transformer: Any,
    x: Tensor,
    sigmas: Sequence[float],
    branch: Branch,
    guidance: float,
    away: Away | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Tensor:
    """Sample with Euler's method.

    Args:
        transformer: a `FluxTransformer2DModel`.
        x: [B, C, h, w] latents, noised to the first sigma; their device is the transformer's.
        sigmas: one more than there are steps, descending.
        branch: what the picture is to be.
        guidance: the distilled guidance that the model is told; ignored by models that know none.
        away: what it is not to be.
        on_step: told each step when it is taken. What it raises ends the sampling.

    Returns:
        The latents [B, C, h, w] at the last sigma, fp32.

    Raises:
        InvalidInput: there are neither one prompt nor as many as latents.
    """
    x = x.float()
    count = len(sigmas) - 1
    with caches_of_its_own(transformer):
        for number in range(count):
            now, after = float(sigmas[number]), float(sigmas[number + 1])
            velocity = guided(transformer, x, now, branch, guidance, away, number, count)
            foreseen = x - now * velocity
            x = x + (after - now) * velocity
            on_step(Step(number + 1, count, now, foreseen))
    return x


def guided(
    transformer: Any,
    x: Tensor,
    sigma: float,
    branch: Branch,
    guidance: float,
    away: Away | None,
    step: int,
    count: int,
) -> Tensor:
    """The velocity [B, C, h, w] in fp32 of a step, counted from 0, of so many: that of `branch`, led from `away`'s."""
    velocity = predict(transformer, x, sigma, branch, guidance, step, "cond", count)
    if away is not None and away.cfg != 1.0 and step >= away.start_step:
        other = predict(transformer, x, sigma, away.branch, guidance, step, "uncond", count)
        velocity = other + away.cfg * (velocity - other)
    return velocity


def predict(
    transformer: Any,
    x: Tensor,
    sigma: float,
    branch: Branch,
    guidance: float,
    step: int,
    cache: str,
    count: int = 1,
) -> Tensor:
    """The velocity [B, C, h, w] in fp32 that the transformer predicts for latents.

    Args:
        transformer: as in `denoise`; so are the next four.
        x: the latents.
        sigma: their share of noise.
        branch: what it is held to.
        guidance: the distilled guidance.
        step: the step's number, counted from 0.
        cache: which of diffusers' caches of earlier steps may be used, should one be enabled: each branch has its own.
        count: how many steps there are; only the branch's extras ask.
    """
    batch, (height, width) = x.shape[0], x.shape[-2:]
    prompt, dtype = _for_each(branch.prompt, batch), branch.prompt.sequence.dtype
    time = torch.full((batch,), sigma, dtype=torch.float32, device=x.device)
    call = Call(
        hidden_states=pack(x).to(dtype),
        timestep=time,
        guidance=torch.full_like(time, guidance) if transformer.config.guidance_embeds else None,
        pooled_projections=prompt.pooled,
        encoder_hidden_states=prompt.sequence,
        txt_ids=torch.zeros(prompt.sequence.shape[1], 3, device=x.device),
        img_ids=image_ids(height, width, x.device),
        step=step,
        count=count,
        sigma=sigma,
        guidance_scale=guidance,
    )
    more = merged([extra(call) for extra in branch.extras])
    cached = transformer.cache_context(cache, step_index=step, sigma=sigma)
    with branch.around(step, sigma), cached, unrounded(transformer, time, call.guidance):
        tokens = transformer(
            hidden_states=call.hidden_states,
            timestep=call.timestep,
            guidance=call.guidance,
            pooled_projections=call.pooled_projections,
            encoder_hidden_states=call.encoder_hidden_states,
            txt_ids=call.txt_ids,
            img_ids=call.img_ids,
            return_dict=False,
            **more,
        )[0]
    return unpack(tokens.float(), height, width)


def merged(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of several extras as one's; what they say in `joint_attention_kwargs` is put together.

    Raises:
        ValueError: two of them give the same argument, and one would be lost.
    """
    together: dict[str, Any] = {}
    for answer in answers:
        for name, value in answer.items():
            if name == SHARED and name in together:
                _check_apart(together[name], value)
                together[name] = {**together[name], **value}
            else:
                _check_apart(together, {name: value})
                together[name] = value
    return together


def _check_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    twice = sorted(one.keys() & other.keys())
    if twice:
        raise ValueError(f"two extras give the transformer {', '.join(twice)}: make one of them that gives both")


def _for_each(prompt: PromptEmbedding, batch: int) -> PromptEmbedding:
    """One prompt as often as there are latents, without a copy; or one for each of them as it is."""
    prompts = prompt.sequence.shape[0]
    if prompts == batch:
        return prompt
    if prompts != 1:
        found = f"there are {prompts} for {batch} latents"
        raise InvalidInput("prompt", found, "Give one for all of them, or one for each.")
    return PromptEmbedding(
        prompt.pooled.expand(batch, -1), prompt.sequence.expand(batch, -1, -1), prompt.tokens_left_out
    )


@contextmanager
def caches_of_its_own(transformer: Any) -> Iterator[None]:
    """A run in which one of diffusers' caches, where it is enabled, begins empty; and of which nothing stays in it.

    What it keeps are the tokens of a few blocks, 25 MB each for a megapixel in bf16, for each branch and each tile.
    """
    _empty_caches(transformer)
    try:
        yield
    finally:
        _empty_caches(transformer)


def _empty_caches(transformer: Any) -> None:
    if transformer.is_cache_enabled:
        HookRegistry.check_if_exists_or_initialize(transformer).reset_stateful_hooks(recurse=True)
