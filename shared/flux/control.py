"""ControlNets for FLUX: drawings that a picture is to follow, several at once, in the sampling loop.

A ControlNet is a copy of some of the transformer's blocks. It reads the noised latent together with the drawing and
answers with residuals: what is to be added to the image's tokens behind each block of the transformer, outside of the
block, so after what PuLID adds within. Residuals of several ControlNets add up.

Sources: L. Zhang, A. Rao, M. Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", 2023; diffusers
`FluxControlNetModel`, `FluxMultiControlNetModel` and `FluxControlNetPipeline` (0.42).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK
from diffusers.hooks.mag_cache import _MAG_CACHE_LEADER_BLOCK_HOOK
from torch import Tensor

from shared.contracts.errors import InvalidInput
from shared.flux.decode import TILED_FROM_PIXELS, encode
from shared.flux.denoise import Call
from shared.flux.latents import pack
from shared.flux.scheduler import unrounded
from shared.vision.codec import Image

# Drawings


@torch.no_grad()
def condition(net: Any, vae: Any, picture: Image, tiled_from: int = TILED_FROM_PIXELS) -> Tensor:
    """What a ControlNet is given of a drawing.

    Args:
        net: the ControlNet.
        vae: FLUX's autoencoder; not used by ControlNets that read pixels themselves (XLabs).
        picture: uint8 RGB of the target's size, (H, W, 3), both sides multiples of 16.
        tiled_from: larger pictures are encoded in tiles, as by `shared.flux.decode.encode`.

    Returns:
        fp32, packed latent [1, H / 16 * W / 16, 4 C]; or pixels [1, 3, H, W] from -1 to 1. The latent is the mode of
        the autoencoder's distribution, from which diffusers draws: so no seed takes part.
    """
    if net.input_hint_block is None:
        return pack(encode(vae, picture, tiled_from))
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0


@dataclass(frozen=True)
class Applied:
    """A ControlNet at work on a drawing. One model may be at work on several.

    Attributes:
        net: a `FluxControlNetModel` on the transformer's device and in its dtype.
        condition: of the drawing, see `condition`.
        mode: see `mode_for`.
        strength: its residuals are multiplied by it; 0 is without it.
        start: the share of the steps before it acts, 0 to 1.
        end: the share of the steps after which it no longer acts.
    """

    net: Any
    condition: Tensor
    mode: int | None = None
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def acts(self, step: int, count: int) -> bool:
        """Whether it does so in a step, counted from 0, of so many: diffusers' rule."""
        return self.strength != 0.0 and step / count >= self.start and (step + 1) / count <= self.end


# In the sampling loop

Residuals = list[Tensor]
"""What is to be added behind each of the transformer's blocks of one kind: [B, tokens, width] for each block."""


class Controls:
    """ControlNets as a `shared.flux.denoise.Extra` of one run.

    Into the branch that is led to goes the object, into the one led away from its method `again`: as in diffusers'
    pipeline, both get the residuals that were computed with the wanted words, once a step.

    Args:
        transformer: the `FluxTransformer2DModel` that is spoken to.
        applied: the ControlNets; none is as if there were no extra.

    Raises:
        InvalidInput: a ControlNet was made for another transformer.
    """

    def __init__(self, transformer: Any, applied: Sequence[Applied]) -> None:
        for one in applied:
            _check(transformer, one.net)
        self._transformer = transformer
        self._applied = tuple(applied)
        self._given: dict[str, Any] = {}

    def __call__(self, call: Call, /) -> Mapping[str, Any]:
        """The residuals as arguments for the transformer; nothing where no ControlNet acts in this step."""
        acting = [one for one in self._applied if one.acts(call.step, call.count)]
        self._given = self._arguments(call, acting) if acting else {}
        return self._given

    def again(self, _: Call, /) -> Mapping[str, Any]:
        """What the object answered last."""
        return self._given

    def _arguments(self, call: Call, acting: Sequence[Applied]) -> dict[str, Any]:
        doubles, singles = len(self._transformer.transformer_blocks), len(self._transformer.single_transformer_blocks)

        @cache
        def computed() -> tuple[Residuals, Residuals]:
            answers = [(one.net.input_hint_block is not None, *_answer(one, call)) for one in acting]
            return (
                _sum([_spread(double, doubles, in_turns=pixels) for pixels, double, _ in answers]),
                _sum([_spread(single, singles, in_turns=False) for _, _, single in answers]),
            )

        given: dict[str, Any] = {}
        skipped = _skipping(self._transformer)
        if any(len(one.net.transformer_blocks) for one in acting):
            given["controlnet_block_samples"] = (
                computed()[0] if skipped is None else _Once(doubles, lambda: computed()[0], skipped, tail=not singles)
            )
        if any(len(one.net.single_transformer_blocks) for one in acting):
            given["controlnet_single_block_samples"] = (
                computed()[1] if skipped is None else _Once(singles, lambda: computed()[1], skipped, tail=True)
            )
        return given


def _check(transformer: Any, net: Any) -> None:
    def shape(model: Any) -> tuple[int, int, int]:
        return model.inner_dim, len(model.transformer_blocks), len(model.single_transformer_blocks)

    (wide, doubles, singles), (net_wide, net_doubles, net_singles) = shape(transformer), shape(net)
    if net_wide != wide or net_doubles > doubles or net_singles > singles:
        raise InvalidInput(
            "controls",
            f"the ControlNet is {net_wide} wide and has {net_doubles} + {net_singles} blocks, the transformer {wide} "
            f"and {doubles} + {singles}",
            "Name a ControlNet that was made for this transformer.",
        )


@torch.no_grad()
def _answer(one: Applied, call: Call) -> tuple[Residuals, Residuals]:
    """What a ControlNet says at this step, for each of its own blocks."""
    device = call.hidden_states.device
    guidance = torch.full_like(call.timestep, call.guidance_scale) if one.net.config.guidance_embeds else None
    with unrounded(one.net, call.timestep, guidance):
        double, single = one.net(
            hidden_states=call.hidden_states,
            controlnet_cond=one.condition.to(call.hidden_states),
            controlnet_mode=None if one.mode is None else torch.full((len(call.timestep), 1), one.mode, device=device),
            conditioning_scale=one.strength,
            encoder_hidden_states=call.encoder_hidden_states,
            pooled_projections=call.pooled_projections,
            timestep=call.timestep,
            img_ids=call.img_ids,
            txt_ids=call.txt_ids,
            guidance=guidance,
            return_dict=False,
        )
    return double or [], single or []


def _spread(own: Residuals, blocks: int, *, in_turns: bool) -> Residuals:
    """A ControlNet's residuals, one for each of the transformer's blocks: several blocks share one.

    Blocks that follow each other do, as InstantX trains, or in turns, as XLabs trains its models that read pixels.
    diffusers' transformer does the same itself, but by one rule for all the models that are added up, and
    `FluxMultiControlNetModel` adds up only models of as many blocks.
    """
    if not own:
        return []
    share = math.ceil(blocks / len(own))
    return [own[block % len(own) if in_turns else block // share] for block in range(blocks)]


def _sum(several: Sequence[Residuals]) -> Residuals:
    """Those of several ControlNets added up, block by block; the same summands are added once."""

    @cache
    def together(*summands: Tensor) -> Tensor:
        first, *rest = summands
        for one in rest:
            first = first + one
        return first

    return [together(*summands) for summands in zip(*(one for one in several if one), strict=True)]


# Beside a cache

Skipped = Callable[[], bool]


class _Once:
    """Residuals for a transformer whose cache may skip blocks: what it repeats holds theirs already.

    diffusers' caches repeat the sum of what all blocks added, and with it the residuals of all but the last block. The
    transformer, which does not know that its blocks were skipped, would add them once more. They are computed when
    they are first wanted: a step that is skipped costs no ControlNet where nothing follows the last block.

    Args:
        blocks: how many there are of this kind.
        computed: their residuals.
        skipped: whether the present call's blocks are.
        tail: whether the transformer's last block is of this kind; its residual is added outside of what is repeated.
    """

    def __init__(self, blocks: int, computed: Callable[[], Residuals], skipped: Skipped, *, tail: bool) -> None:
        self._blocks = blocks
        self._computed = computed
        self._skipped = skipped
        self._tail = tail

    def __len__(self) -> int:
        return self._blocks

    def __getitem__(self, block: int) -> Tensor | float:
        outside = self._tail and block == self._blocks - 1
        return 0.0 if self._skipped() and not outside else self._computed()[block]


def _skipping(transformer: Any) -> Skipped | None:
    """Asked behind a block: whether the cache skips those of the present call. None where no cache skips whole calls.

    Raises:
        InvalidInput: what the cache does cannot be told.
    """
    config = transformer._cache_config  # noqa: SLF001  # diffusers tells of it nowhere else
    match config:
        case FirstBlockCacheConfig():
            leader = _FBC_LEADER_BLOCK_HOOK
        case MagCacheConfig():
            leader = _MAG_CACHE_LEADER_BLOCK_HOOK
        case SeaCacheConfig():
            found = "SeaCache is enabled, which does not tell whether it skips a step's blocks"
            raise InvalidInput("controls", found, "Use FirstBlockCache or none beside a ControlNet.")
        case _:
            return None
    state = transformer.transformer_blocks[0]._diffusers_hook.get_hook(leader).state_manager  # noqa: SLF001
    return lambda: not state.get_state().should_compute
