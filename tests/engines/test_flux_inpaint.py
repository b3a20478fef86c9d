"""Sampling within masks: ComfyUI's arithmetic written out number by number, and what it promises of what is kept."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from numpy.typing import NDArray
from torch import Tensor

from shared.contracts.errors import Cancelled, InvalidInput
from shared.flux import tiny
from shared.flux.denoise import Away, Branch, Step, denoise, predict, start
from shared.flux.inpaint import SIGMA_MIN, denoise_within, latent_mask, let_in
from shared.flux.latents import noise, pack
from shared.flux.pulid import tiny as tiny_pulid
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach
from shared.flux.schedules import sigmas as schedule
from shared.flux.text import PromptEmbedding, together

WIDTH, HEIGHT = 64, 48
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
LEVELS = tuple(float(sigma) for sigma in schedule("beta", 4, denoise=0.6))
CLOSE = 1e-5
"""In fp32: one step's matrix products, added up in another order."""

Array = NDArray[np.float64]


@cache
def transformer() -> Any:
    return tiny.transformer()


@cache
def seeing() -> Any:
    """One with PuLID attached."""
    made = tiny.transformer()
    attach(made, cast(list[PerceiverAttentionCA], list(tiny_pulid.pulid().pulid_ca)))
    return made


def words(seed: int) -> PromptEmbedding:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, tiny.WIDTH, generator=generator)
    return PromptEmbedding(pooled, torch.randn(1, 12, tiny.WIDTH, generator=generator))


def person(seed: int) -> Tensor:
    width = tiny_pulid.IDENTITY.idformer.out_dim
    return torch.randn(1, 4, width, generator=torch.Generator().manual_seed(seed))


def fresh(seed: int = 7) -> Tensor:
    return noise(WIDTH, HEIGHT, seed)


def kept(seed: int = 1) -> Tensor:
    return noise(WIDTH, HEIGHT, seed) * 0.5


def binary() -> Tensor:
    mask = torch.zeros(1, 1, ROWS, COLUMNS)
    mask[..., 1:5, 2:6] = 1
    return mask


def soft() -> Tensor:
    """From 0 to 1 in the columns, both among them."""
    return torch.linspace(0, 1, COLUMNS).expand(1, 1, ROWS, COLUMNS).clone()


def within(mask: Tensor, *, differential: bool = False, away: Away | None = None, seed: int = 7) -> Tensor:
    return denoise_within(
        transformer(), fresh(seed), kept(), mask, LEVELS, Branch(words(1)), 3.5, away, differential=differential
    )


def written_out(
    velocity: Callable[[Array, float], Array], drawn: Array, there: Array, mask: Array, *, differential: bool
) -> Array:
    """ComfyUI's Euler sampler around KSamplerX0Inpaint, each number for itself; `velocity` is CFG's."""
    x = np.empty_like(drawn)
    for place in np.ndindex(*drawn.shape):
        x[place] = LEVELS[0] * drawn[place] + (1 - LEVELS[0]) * there[place]
    for sigma, after in pairwise(LEVELS):
        threshold = (sigma - SIGMA_MIN) / (LEVELS[0] - SIGMA_MIN)
        shown = np.empty_like(x)
        for item, channel, row, column in np.ndindex(*x.shape):
            m = mask[0, 0, row, column]
            if differential:
                m = 1.0 if m >= threshold else 0.0
            noised = sigma * drawn[item, channel, row, column] + (1 - sigma) * there[item, channel, row, column]
            shown[item, channel, row, column] = x[item, channel, row, column] * m + noised * (1 - m)
        predicted = velocity(shown, sigma)
        following = np.empty_like(x)
        for place in np.ndindex(*x.shape):
            m = mask[0, 0, place[2], place[3]]
            if differential:
                m = 1.0 if m >= threshold else 0.0
            denoised = (shown[place] - sigma * predicted[place]) * m + there[place] * (1 - m)
            slope = (x[place] - denoised) / sigma
            following[place] = x[place] + slope * (after - sigma)
        x = following
    return x


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("mask", [binary(), soft()], ids=["binary", "soft"])
def test_it_is_comfyui_s_arithmetic(mask: Tensor, cfg: float, differential: bool) -> None:
    """For masks of 0 and 1 and soft ones, with and without differential denoising and true guidance."""
    positive, negative = Branch(words(1)), Branch(words(2))

    def velocity(x: Array, sigma: float) -> Array:
        given = torch.from_numpy(x).float()
        with torch.no_grad():
            led = [
                predict(transformer(), given, sigma, branch, 3.5, 0, "x").double() for branch in (positive, negative)
            ]
        guided: Array = (led[1] + cfg * (led[0] - led[1])).numpy()
        return guided

    wanted = written_out(
        velocity, fresh().double().numpy(), kept().double().numpy(), mask.double().numpy(), differential=differential
    )
    made = within(mask, differential=differential, away=Away(negative, cfg))
    assert np.abs(made.double().numpy() - wanted).max() < CLOSE


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("scheduler", ["beta", "karras", "simple"])
def test_what_the_mask_leaves_out_comes_back_bit_by_bit(scheduler: Any, differential: bool) -> None:
    """Whatever the schedule ends with: of `karras` that is the smallest sigma there is."""
    levels = [float(sigma) for sigma in schedule(scheduler, 3, denoise=0.7)]
    branch = Branch(words(1))
    for mask in (torch.zeros(1, 1, ROWS, COLUMNS), binary(), soft()):
        made = denoise_within(transformer(), fresh(), kept(), mask, levels, branch, 3.5, differential=differential)
        outside = (mask == 0).expand_as(made)
        assert torch.equal(made[outside], kept()[outside])
        assert torch.isfinite(made).all()


@pytest.mark.parametrize("differential", [False, True])
def test_a_mask_of_ones_is_plain_sampling(differential: bool) -> None:
    made = within(torch.ones(1, 1, ROWS, COLUMNS), differential=differential)
    plain = denoise(transformer(), start(fresh(), LEVELS, kept()), LEVELS, Branch(words(1)), 3.5)
    assert (made - plain).abs().max() < CLOSE


def test_for_masks_of_0_and_1_it_is_diffusers_blend() -> None:
    """Which noises what is kept to the next sigma after each step."""
    branch, mask = Branch(words(1)), binary()
    x = start(fresh(), LEVELS, kept())
    for number, (now, after) in enumerate(pairwise(LEVELS)):
        with torch.no_grad():
            x = x + (after - now) * predict(transformer(), x, now, branch, 3.5, number, "x")
        x = (1 - mask) * (after * fresh() + (1 - after) * kept()) + mask * x
    assert (within(mask) - x).abs().max() < CLOSE


def test_soft_masks_do_not_compound() -> None:
    """Of a model that always foresees one picture, half a mask gives half, however many steps are taken."""
    foreseen, half = fresh(3), torch.full((1, 1, ROWS, COLUMNS), 0.5)

    def certain(**given: Any) -> tuple[Tensor]:
        return ((given["hidden_states"] - pack(foreseen)) / given["timestep"],)

    model = tiny.transformer()
    model.forward = certain
    made = denoise_within(model, fresh(), kept(), half, LEVELS, Branch(words(1)), 3.5)
    assert (made - (0.5 * foreseen + 0.5 * kept())).abs().max() < CLOSE


@pytest.mark.parametrize(("scheduler", "at_last"), [("beta", 0.1605), ("karras", 0.0)])
def test_differential_denoising_lets_in_more_at_each_step(scheduler: Any, at_last: float) -> None:
    """At first what is 1 alone, and nothing that was painted is given up again.

    At last what is above the last level's share: of `karras` all that is not 0, of `beta` not what is nearly 0.
    """
    levels = [float(sigma) for sigma in schedule(scheduler, 8)]
    mask = torch.linspace(0, 1, 1001)
    steps = [let_in(mask, sigma, levels) for sigma in levels[:-1]]
    assert torch.equal(steps[0], (mask == 1).float())
    assert torch.equal(steps[-1], (mask > at_last).float())
    assert all(bool((later >= earlier).all()) for earlier, later in pairwise(steps))
    assert len({int(step.sum()) for step in steps}) == 8


def test_differential_denoising_begins_at_once_where_a_blur_rounds_1_down() -> None:
    """cv2's Gaussian of 11 pixels gives 1 - 6e-8 in the middle of a square of ones, as torchvision's of others."""
    blurred = torch.full((1, 1, ROWS, COLUMNS), float(np.nextafter(np.float32(1), np.float32(0))))
    assert torch.equal(let_in(blurred, LEVELS[0], LEVELS), torch.ones_like(blurred))
    assert torch.equal(within(blurred, differential=True), within(torch.ones_like(blurred), differential=True))


def test_differential_denoising_of_a_single_last_level_is_defined() -> None:
    """The node would divide nothing by nothing."""
    assert torch.equal(let_in(soft(), SIGMA_MIN, (SIGMA_MIN, 0.0)), (soft() > 0).float())


def test_comfyui_s_smallest_sigma() -> None:
    assert pytest.approx(3.1575e-4, rel=1e-4) == SIGMA_MIN
    assert float(schedule("karras", 5)[-2]) == pytest.approx(SIGMA_MIN, rel=1e-9)


# Several at once


@pytest.mark.parametrize("differential", [False, True])
def test_a_batch_is_its_items_one_by_one(differential: bool) -> None:
    """Each with its own noise, picture, mask and words; and with words and a mask that they share."""
    drawn, there = torch.cat([fresh(7), fresh(8), fresh(9)]), torch.cat([kept(1), kept(2), kept(3)])
    masks = torch.cat([soft(), binary(), soft().flip(-1)])
    prompts = [words(1), words(2), words(3)]
    away = Away(Branch(words(4)), 2.0)

    def run(some: slice, prompt: PromptEmbedding, mask: Tensor) -> Tensor:
        return denoise_within(
            transformer(), drawn[some], there[some], mask, LEVELS, Branch(prompt), 3.5, away, differential=differential
        )

    own = run(slice(None), together(prompts), masks)
    shared = run(slice(None), prompts[0], soft())
    for number, prompt in enumerate(prompts):
        one = slice(number, number + 1)
        assert (own[one] - run(one, prompt, masks[one])).abs().max() < CLOSE
        assert (shared[one] - run(one, prompts[0], soft())).abs().max() < CLOSE


@pytest.mark.parametrize("cached", [False, True])
def test_people_are_held_in_a_batch_as_alone(*, cached: bool) -> None:
    """Each crop its own person, one of them nobody's; the negative branch sees nobody's tokens in the same places.

    So it is beside a cache of earlier steps, as long as it skips nothing.
    """
    model = seeing() if not cached else tiny.transformer()
    if cached:
        attach(model, cast(list[PerceiverAttentionCA], list(tiny_pulid.pulid().pulid_ca)))
        model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    tokens, nobody = torch.cat([person(1), person(2), person(3)]), person(9)
    drawn, there = torch.cat([fresh(7), fresh(8), fresh(9)]), torch.cat([kept(1), kept(2), kept(3)])
    held = torch.tensor([1.0, 1.0, 0.0])

    def run(some: slice, *, items: Tensor | None, who: Tensor | None) -> Tensor:
        told, led = (
            Branch(words(seed), IdentityCall([Subject(tokens=one, weight=0.8, items=items)]).around)
            if one is not None
            else Branch(words(seed))
            for seed, one in ((1, who), (2, None if who is None else nobody))
        )
        return denoise_within(model, drawn[some], there[some], soft(), LEVELS, told, 3.5, Away(led, 2.0))

    batch = run(slice(None), items=held, who=tokens)
    for number in range(3):
        one = slice(number, number + 1)
        alone = run(one, items=None, who=tokens[one] if held[number] else None)
        assert (batch[one] - alone).abs().max() < CLOSE
        other = run(one, items=None, who=None if held[number] else tokens[one])
        assert (batch[one] - other).abs().max() > 1e-3, "the person makes a difference"


# What is told, and what does not fit


def test_each_step_is_told_and_may_end_it() -> None:
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        if step.number == 2:
            raise Cancelled("no longer wanted")

    with pytest.raises(Cancelled):
        denoise_within(transformer(), fresh(), kept(), soft(), LEVELS, Branch(words(1)), 3.5, on_step=tell)
    assert [(step.number, step.count, step.sigma) for step in steps] == [(1, 4, LEVELS[0]), (2, 4, LEVELS[1])]
    assert steps[0].foreseen.shape == kept().shape


def test_what_does_not_fit_is_said() -> None:
    branch = Branch(words(1))
    for latents, mask, message in (
        (kept()[..., :4], soft(), "beside noise of"),
        (kept(), soft()[..., :4], "beside latents of"),
        (kept(), soft().expand(3, -1, -1, -1), "beside latents of"),
        (kept(), soft() * 2, "from 0 to 2"),
        (kept(), soft() * float("nan"), "nan"),
    ):
        with pytest.raises(InvalidInput, match=message):
            denoise_within(transformer(), fresh(), latents, mask, LEVELS, branch, 3.5)
    three = together([words(1), words(2), words(3)])
    with pytest.raises(InvalidInput, match="there are 3 for 1 latents"):
        denoise_within(transformer(), fresh(), kept(), soft(), LEVELS, Branch(three), 3.5)


def test_a_mask_becomes_the_latent_s_size_bilinearly() -> None:
    """Each number of it is the mean of the four pixels in the middle of its 8 x 8."""
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
    made = latent_mask(mask)
    wanted = [
        [mask[8 * row + 3 : 8 * row + 5, 8 * column + 3 : 8 * column + 5].mean() for column in range(COLUMNS)]
        for row in range(ROWS)
    ]
    assert made.shape == (1, 1, ROWS, COLUMNS)
    assert made.dtype == torch.float32
    assert np.abs(made[0, 0].numpy() - np.array(wanted)).max() < 1e-6
    assert latent_mask(mask[:33, :17], WIDTH, HEIGHT).shape == made.shape
    for wrong, message in (
        (mask[:40], "64 x 40"),
        (mask[:0], "shape"),
        (mask[None], "shape"),
        (mask * 3, "from 0"),
        (mask - 2, "from -"),
    ):
        with pytest.raises(InvalidInput, match=message):
            latent_mask(wrong)
