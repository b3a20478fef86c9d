"""A run's own sigmas in diffusers' FLUX pipelines, with times and latents in fp32 from the first step to the last.

diffusers' pipelines round both to the weights' type: of 100 bf16 times of ComfyUI's `beta` 91 stay distinct, the first
ten become 1000 four times, 996 three times, 992 twice and 988. ComfyUI keeps fp32, and so do we.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from shared.contracts.errors import InvalidInput

TIMES: float = 1000.0
"""The model's time of all noise."""


class SigmaScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is not followed
    """Euler steps x + (s' - s) * v along given sigmas, for `pipeline.scheduler`: a new one for each run.

    What the pipeline itself asks for (steps, sigmas, shift) is set aside. An image-to-image pipeline is called with
    `strength=1`: the first sigma says how much noise the picture gets. The latents stay fp32 if the prompt embeddings
    that are given to the pipeline are fp32; narrow weights then need `take_float32`.

    Args:
        sigmas: as `shared.flux.schedules.sigmas` returns them: descending from 1 or below, the last one 0.

    Raises:
        InvalidInput: they are not.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is not followed
    def __init__(self, sigmas: Sequence[float]) -> None:
        _check(sigmas)
        self.sigmas = torch.tensor([float(sigma) for sigma in sigmas], dtype=torch.float32)
        self.timesteps = self.sigmas[:-1] * TIMES
        self.num_inference_steps = len(self.timesteps)
        self.begin_index: int | None = None
        self.step_index: int | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this step. Pipelines call it before the first."""
        self.begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,  # noqa: ARG002
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,  # noqa: ARG002
        mu: float | None = None,  # noqa: ARG002
    ) -> None:
        """Begin anew, on a device. The schedule is the one that was given when the scheduler was made."""
        self.sigmas = self.sigmas.to(device)
        self.timesteps = self.timesteps.to(device)
        self.begin_index = None
        self.step_index = None

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean latents with the noise of a time: s * noise + (1 - s) * sample, in fp32.

        As in diffusers the time is that of the present step, or of the first one; `timestep`, [batch], counts only
        before a pipeline has begun.
        """
        if self.begin_index is None:
            indices = [self._index(time) for time in timestep]
        else:
            indices = [self.begin_index if self.step_index is None else self.step_index] * len(timestep)
        sigma = self.sigmas.to(sample.device)[indices].reshape(-1, *[1] * (sample.ndim - 1))
        return sigma * noise.float() + (1.0 - sigma) * sample.float()

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """One Euler step.

        Args:
            model_output: the velocity v, of any floating type.
            timestep: the present time; counts only at the first step, when the pipeline has not said where it begins.
            sample: the latents x.
            return_dict: return an object with `prev_sample` instead of a tuple.

        Returns:
            The next latents, fp32.
        """
        if self.step_index is None:
            self.step_index = self._index(timestep) if self.begin_index is None else self.begin_index
        change = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index]
        following = sample.float() + change * model_output.float()
        self.step_index += 1
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def _index(self, time: torch.Tensor) -> int:
        return int((self.timesteps - time.to(self.timesteps)).abs().argmin())

    def __len__(self) -> int:
        return self.num_inference_steps


class _Given(NamedTuple):
    """What the embedding of time is to have, times 1000."""

    time: torch.Tensor
    guidance: torch.Tensor | None


_given: ContextVar[_Given | None] = ContextVar("given", default=None)


def _exact(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Before the embedding of time: what the call was given, and not what its model made of it.

    It asks whose call it is in, since all calls of a shared model meet all their hooks.
    """
    mine = _given.get()
    if mine is None:
        return args
    return (mine.time, *args[1:]) if mine.guidance is None else (mine.time, mine.guidance, *args[2:])


def _times_1000(time: torch.Tensor, guidance: torch.Tensor | None) -> _Given:
    return _Given(time.float() * TIMES, None if guidance is None else guidance.float() * TIMES)


@contextmanager
def unrounded(transformer: Any, time: torch.Tensor, guidance: torch.Tensor | None = None) -> Iterator[None]:
    """For the time of a call, let the embedding of time have it and the guidance in fp32.

    diffusers' `forward` rounds both to the dtype of the tokens before it takes their sines and cosines, ComfyUI after:
    in bf16 a time moves by up to 2 of 1000, and a guidance of 3.5 becomes 3.504. A whole model that was compiled keeps
    no heed of hooks: compile its blocks instead.

    Args:
        transformer: a FluxTransformer2DModel, or what else embeds time as it does.
        time: sigma [B], as the call is given it.
        guidance: [B], the same; None leaves it as the model made it.
    """
    token = _given.set(_times_1000(time, guidance))
    hook = transformer.time_text_embed.register_forward_pre_hook(_exact)
    try:
        yield
    finally:
        hook.remove()
        _given.reset(token)


def take_float32(transformer: Any) -> Callable[[], None]:
    """Let all calls of a FLUX transformer have exact times, and of a narrow one be given fp32 latents.

    For diffusers' pipelines, whose calls are theirs. Latents and text are narrowed on the way in, as the weights ask
    for; times and guidance are not (`unrounded`).

    Args:
        transformer: a FluxTransformer2DModel. It is called with keywords, as the pipelines do.

    Returns:
        A function that takes the change back.
    """

    def narrow(_: Any, args: tuple[()], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        _given.set(_times_1000(kwargs["timestep"], kwargs.get("guidance")))
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections")
        return args, kwargs | {name: kwargs[name].to(transformer.dtype) for name in names}

    hooks = (
        transformer.register_forward_pre_hook(narrow, with_kwargs=True),
        transformer.time_text_embed.register_forward_pre_hook(_exact),
    )

    def take_back() -> None:
        for hook in hooks:
            hook.remove()

    return take_back


def _check(sigmas: Sequence[float]) -> None:
    mend = "Take them from shared.flux.schedules."
    if len(sigmas) < 2 or sigmas[-1] != 0.0:
        raise InvalidInput("sigmas", f"found {len(sigmas)} that end in {list(sigmas[-1:])}, not in 0", mend)
    if not all(1.0 >= above > below for above, below in itertools.pairwise(sigmas)):
        raise InvalidInput("sigmas", "they do not descend from at most 1", mend)
