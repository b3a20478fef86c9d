"""Several people in one picture: where each of them acts, and that nobody acts elsewhere."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.contracts.errors import InvalidInput
from shared.flux import tiny
from shared.flux.denoise import Around, Away, Branch, alone, denoise
from shared.flux.latents import noise
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall
from shared.flux.pulid.injection import attach, injected, sites
from shared.flux.regions import Region, masks, subjects
from shared.flux.schedules import sigmas as schedule
from shared.flux.text import PromptEmbedding

WIDE, HIGH = 128, 64
LEFT, RIGHT = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)
ID_WIDTH = 24
SIDES = st.integers(1, 12).map(lambda tokens: 16 * tokens)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    across, down = (sorted(draw(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)))) for _ in range(2))
    smallest = 0.001
    feather = draw(st.floats(0, 0.5))
    return Region(across[0], down[0], max(across[1], across[0] + smallest), max(down[1], down[0] + smallest), feather)


# Masks


@given(SIDES, SIDES, st.floats(0, 0.5))
def test_the_whole_picture_is_ones(width: int, height: int, feather: float) -> None:
    """Whatever the feather: there is no edge at the picture's own sides."""
    (mask,) = masks([Region(0, 0, 1, 1, feather)], width, height)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, torch.ones(width // 16 * (height // 16)))


@given(st.lists(regions(), min_size=1, max_size=4), SIDES, SIDES)
def test_everyone_has_a_place_and_none_is_given_away_twice(many: list[Region], width: int, height: int) -> None:
    """Weights are from 0 to 1, add up to 1 at most, and each region has a token, alone one of the whole weight."""
    found = torch.stack(masks(many, width, height))
    assert found.shape == (len(many), width // 16 * (height // 16))
    assert found.min() >= 0
    assert found.sum(0).max() <= 1 + 1e-6
    assert (found.amax(1) > 0).all()
    assert all(masks([one], width, height)[0].max() == 1 for one in many)


@given(regions(), SIDES, SIDES)
def test_nobody_acts_outside_their_region(one: Region, width: int, height: int) -> None:
    """Only tokens that touch the rectangle; the soft edge lies within it."""
    grid = masks([one], width, height)[0].view(height // 16, width // 16)
    for row, column in grid.nonzero().tolist():
        assert column * 16 < one.right * width
        assert (column + 1) * 16 > one.left * width
        assert row * 16 < one.bottom * height
        assert (row + 1) * 16 > one.top * height


@given(regions(), SIDES, SIDES)
def test_without_feather_a_token_is_within_or_without(one: Region, width: int, height: int) -> None:
    (mask,) = masks([one._replace(feather=0)], width, height)
    assert set(mask.tolist()) <= {0.0, 1.0}


def test_a_wide_picture_is_covered_row_by_row() -> None:
    """128 x 64 pixels are 4 rows of 8 tokens: the upper right quarter of them."""
    (mask,) = masks([Region(0.5, 0, 1, 0.5)], WIDE, HIGH)
    row = [0.0] * 4 + [1.0] * 4
    assert mask.tolist() == row * 2 + [0.0] * 16


def test_the_soft_edge_is_as_wide_as_it_is_said() -> None:
    """A feather of a quarter of 128 pixels rises over two tokens within the region, and not at the picture's side."""
    (mask,) = masks([Region(0.25, 0, 1, 1, feather=0.25)], WIDE, 16)
    assert mask.tolist() == [0, 0, 0.25, 0.75, 1, 1, 1, 1]


def test_the_soft_edge_is_measured_by_the_longer_side() -> None:
    """So that it is as many pixels down as across."""
    (mask,) = masks([Region(0, 0.25, 1, 1, feather=0.25)], 16, WIDE)
    assert mask.tolist() == [0, 0, 0.25, 0.75, 1, 1, 1, 1]


def test_overlapping_people_share() -> None:
    """Where two overlap, half each; the more, the less; and who is alone somewhere has all of it there."""
    first, second = masks([Region(0, 0, 0.75, 1), Region(0.25, 0, 1, 1)], WIDE, 16)
    assert first.tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0]
    assert second.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1]
    everywhere = masks([Region(0, 0, 1, 1)] * 4, WIDE, 16)
    assert all(torch.equal(one, torch.full((8,), 0.25)) for one in everywhere)


@pytest.mark.parametrize("feather", [0.0, 0.05, 0.5])
def test_a_region_smaller_than_a_token_has_one(feather: float) -> None:
    (mask,) = masks([Region(0.401, 0.4, 0.402, 0.401, feather)], 1024, 512)
    assert mask.sum() == 1
    assert mask.argmax() == 12 * 64 + 25


def test_a_region_right_at_the_end_has_one() -> None:
    (mask,) = masks([Region(0.9999, 0.9999, 1, 1)], WIDE, HIGH)
    assert mask.nonzero().tolist() == [[31]]


def test_what_is_no_region_is_refused() -> None:
    for wrong in (
        Region(0.5, 0, 0.5, 1),
        Region(0, 0.6, 1, 0.5),
        Region(-0.1, 0, 1, 1),
        Region(0, 0, 1, 1.1),
        Region(float("nan"), 0, 1, 1),
    ):
        with pytest.raises(InvalidInput, match="number 2 is left"):
            masks([LEFT, wrong], WIDE, HIGH)
    with pytest.raises(InvalidInput, match="number 1 has a feather of -1"):
        masks([Region(0, 0, 1, 1, -1)], WIDE, HIGH)
    with pytest.raises(InvalidInput, match="100 x 64"):
        masks([LEFT], 100, HIGH)


# What masks do


def test_a_person_acts_in_their_region_alone() -> None:
    """At one of PuLID's places: outside of all regions the tokens are the same to the bit, inside as if alone."""
    torch.manual_seed(1)
    attention = PerceiverAttentionCA(32, ID_WIDTH, heads=2, head_dim=8).eval()
    image = torch.randn(1, 32, 32)
    places = [Region(0, 0, 0.25, 1), Region(0.75, 0, 1, 1)]
    several = _subjects([_identity(1), _identity(2)], places)
    with torch.no_grad():
        both = injected(attention, image, IdentityCall(several).frame)
        for number, place in enumerate(masks(places, WIDE, HIGH)):
            everywhere = _subjects([_identity(number + 1)], [])
            alone_there = injected(attention, image, IdentityCall(everywhere).frame)
            torch.testing.assert_close(both[:, place == 1], alone_there[:, place == 1])
    outside = torch.stack(masks(places, WIDE, HIGH)).sum(0) == 0
    assert outside.sum() == 16
    assert torch.equal(both[:, outside], image[:, outside])


def test_two_people_are_painted_from_noise_each_at_their_place() -> None:
    """With true guidance: another person at the left changes the picture, most of all at the left; so at the right."""
    transformer = tiny.transformer()
    torch.manual_seed(1)
    attach(transformer, [PerceiverAttentionCA(tiny.WIDTH, ID_WIDTH, 2, 8).eval() for _ in sites(transformer)])
    wanted = _paint(transformer, [_identity(1), _identity(2)])
    for changed, side in (([_identity(3), _identity(2)], 0), ([_identity(1), _identity(3)], 1)):
        moved = (_paint(transformer, changed) - wanted).abs()
        halves = [half.mean().item() for half in moved.chunk(2, dim=-1)]
        assert halves[side] > 1.5 * halves[1 - side]
    assert not torch.equal(_paint(transformer, [_identity(2), _identity(1)]), wanted)
    assert not torch.equal(_paint(transformer, []), wanted)


# Who


def test_one_person_may_be_everywhere_or_in_a_region() -> None:
    (one,) = _subjects([_identity(1)], [], weight=0.8, start_step=3)
    assert one.mask is None
    assert (one.weight, one.start_step) == (0.8, 3)
    assert torch.equal(one.tokens, _identity(1).id[None])
    (one,) = _subjects([_identity(1)], [LEFT])
    assert one.mask is not None
    assert one.mask.sum() == 16


def test_each_person_has_their_own_region_and_weight_in_the_order_given() -> None:
    people = [_identity(seed) for seed in range(3)]
    places = [Region(0, 0, 0.25, 1), Region(0.25, 0, 0.5, 1), Region(0.5, 0, 1, 1)]
    found = _subjects(people, places, weight=(0.5, 1.0, 1.5))
    assert [one.weight for one in found] == [0.5, 1.0, 1.5]
    for one, person, place in zip(found, people, masks(places, WIDE, HIGH), strict=True):
        assert torch.equal(one.tokens[0], person.id)
        assert one.mask is not None
        assert torch.equal(one.mask, place)


def test_the_negative_branch_has_nobody_in_the_same_places() -> None:
    people = [_identity(1), _identity(2)]
    seen, unseen = (_subjects(people, [LEFT, RIGHT], tokens=which) for which in ("id", "uncond"))
    for one, nobody, person in zip(seen, unseen, people, strict=True):
        assert torch.equal(nobody.tokens[0], person.uncond)
        assert one.mask is not None
        assert nobody.mask is not None
        assert torch.equal(one.mask, nobody.mask)


def test_tokens_are_as_the_transformer_wants_them_and_weights_stay_exact() -> None:
    found = subjects(
        [_identity(1), _identity(2)], [LEFT, RIGHT], 1.0, 0, WIDE, HIGH, device="cpu", dtype=torch.bfloat16
    )
    assert {one.tokens.dtype for one in found} == {torch.bfloat16}
    assert {None if one.mask is None else one.mask.dtype for one in found} == {torch.float32}


def test_people_and_regions_that_do_not_count_the_same_are_refused() -> None:
    two = [_identity(1), _identity(2)]
    with pytest.raises(InvalidInput, match="there are none for 2 people"):
        _subjects(two, [])
    with pytest.raises(InvalidInput, match="there are 1 for 2 people"):
        _subjects(two, [LEFT])
    with pytest.raises(InvalidInput, match="there are 2 for one person"):
        _subjects(two[:1], [LEFT, RIGHT])
    with pytest.raises(InvalidInput, match="there are 1 for 0 people"):
        _subjects([], [LEFT])
    with pytest.raises(InvalidInput, match="identity_weight: there are 3 for 2 people"):
        _subjects(two, [LEFT, RIGHT], weight=(1.0, 1.0, 1.0))
    assert _subjects([], []) == []


def _identity(seed: int) -> PulidIdentity:
    generator = torch.Generator().manual_seed(seed)
    return PulidIdentity(
        id=torch.randn(5, ID_WIDTH, generator=generator),
        uncond=torch.randn(5, ID_WIDTH, generator=generator),
        arcface=torch.randn(1, 512, generator=generator),
        about=PulidAbout(models={}, fusion="weighted", photos=1),
    )


def _subjects(people: list[PulidIdentity], places: list[Region], **settings: Any) -> Any:
    usual: dict[str, Any] = {"weight": 1.0, "start_step": 0, "dtype": torch.float32}
    return subjects(people, places, width=WIDE, height=HIGH, device="cpu", **usual | settings)


def _paint(transformer: Any, people: list[PulidIdentity]) -> Tensor:
    places = [LEFT, RIGHT] if people else []

    def branch(seed: int, tokens: str) -> Branch:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, tiny.WIDTH, generator=generator)
        words = PromptEmbedding(pooled, torch.randn(1, 12, tiny.WIDTH, generator=generator))
        around: Around = IdentityCall(_subjects(people, places, tokens=tokens)).around if people else alone
        return Branch(words, around)

    sigmas = schedule("simple", 1).tolist()
    away = Away(branch(2, "uncond"), 2.0)
    return denoise(transformer, noise(WIDE, HIGH, 7), sigmas, branch(1, "id"), 3.5, away)
