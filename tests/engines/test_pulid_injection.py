"""PuLID within a tiny FLUX transformer of random weights: who is seen, where, when, and that nothing is left behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel
from torch import Tensor, _dynamo
from torch._dynamo.utils import counters

from shared.contracts.errors import InvalidInput
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject, identity
from shared.flux.pulid.injection import attach, injected, sites

TEXT, IMAGE, WIDTH, ID_WIDTH = 6, 16, 32, 24


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def transformer() -> Any:
    return _transformer()


@pytest.fixture
def attentions() -> list[PerceiverAttentionCA]:
    return _attentions(3)


# Where


def test_flux_has_the_published_twenty_places() -> None:
    """After double blocks 0, 2, ..., 18 and single blocks 0, 4, ..., 36."""
    with torch.device("meta"):
        whole = _transformer(doubles=19, singles=38)
    doubles, singles = list(whole.transformer_blocks), list(whole.single_transformer_blocks)
    assert sites(whole) == [doubles[i] for i in range(0, 19, 2)] + [singles[i] for i in range(0, 38, 4)]
    assert len(sites(whole)) == 20


def test_each_place_adds_its_module_to_the_image_and_leaves_the_text(
    transformer: Any, attentions: list[PerceiverAttentionCA]
) -> None:
    """At every block: the image is the block's own plus weight times module, the text is the block's own."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    own = dict(zip(sites(transformer), attentions, strict=True))
    args = {
        "hidden_states": _noise(1, IMAGE, WIDTH),
        "encoder_hidden_states": _noise(1, TEXT, WIDTH, seed=1),
        "temb": _noise(1, WIDTH, seed=2),
        "image_rotary_emb": transformer.pos_embed(torch.zeros(TEXT + IMAGE, 3)),
    }
    before = [block(**args) for block in blocks]
    attach(transformer, attentions)
    call = IdentityCall([Subject(tokens=_noise(1, 5, ID_WIDTH, seed=3), weight=0.7)])
    for block, (text, image) in zip(blocks, before, strict=True):
        new_text, new_image = block(**args, joint_attention_kwargs={"pulid_frame": call.frame})
        assert torch.equal(new_text, text)
        wanted = image + 0.7 * own[block](call.subjects[0].tokens, image) if block in own else image
        torch.testing.assert_close(new_image, wanted, atol=1e-6, rtol=0)


def test_subjects_act_only_within_their_masks(attentions: list[PerceiverAttentionCA]) -> None:
    """Two subjects in two halves: each half is as if its subject were alone; where no mask is, nothing changes."""
    image = _noise(1, IMAGE, WIDTH)
    left, right = torch.zeros(IMAGE), torch.zeros(IMAGE)
    left[:6], right[10:] = 1, 1
    one, other = _noise(1, 5, ID_WIDTH, seed=1), _noise(1, 5, ID_WIDTH, seed=2)

    both = _seen(attentions[0], image, Subject(tokens=one, mask=left), Subject(tokens=other, mask=right))

    torch.testing.assert_close(both[:, :6], _seen(attentions[0], image, Subject(tokens=one))[:, :6])
    torch.testing.assert_close(both[:, 10:], _seen(attentions[0], image, Subject(tokens=other))[:, 10:])
    assert torch.equal(both[:, 6:10], image[:, 6:10])


def test_overlapping_subjects_add_up(attentions: list[PerceiverAttentionCA]) -> None:
    """Contributions are all taken from the image before any of them, and summed: the order does not matter."""
    image = _noise(1, IMAGE, WIDTH)
    one, other = (
        Subject(tokens=_noise(1, 5, ID_WIDTH, seed=seed), mask=torch.linspace(0, 1, IMAGE)) for seed in (1, 2)
    )
    alone = [_seen(attentions[0], image, subject) - image for subject in (one, other)]
    torch.testing.assert_close(_seen(attentions[0], image, one, other), image + alone[0] + alone[1])
    torch.testing.assert_close(
        _seen(attentions[0], image, other, one), _seen(attentions[0], image, one, other), atol=1e-5, rtol=0
    )


def test_reference_tokens_after_the_image_are_left_alone(attentions: list[PerceiverAttentionCA]) -> None:
    """With FLUX.1 Kontext the first tokens are the image: they change as ever, the references not at all."""
    image = _noise(1, IMAGE, WIDTH)
    call = IdentityCall([_subject(mask=torch.ones(10))], image_tokens=10)
    found = injected(attentions[0], image, call.frame)
    assert torch.equal(found[:, 10:], image[:, 10:])
    torch.testing.assert_close(found[:, :10], _seen(attentions[0], image[:, :10], _subject()))


# How strongly, and when


def test_weight_zero_is_no_pulid(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """Bit for bit, and so is a call outside of any context."""
    plain = _run(transformer)
    attach(transformer, attentions)
    assert torch.equal(_run(transformer), plain)
    assert torch.equal(_run(transformer, IdentityCall([_subject(weight=0.0)])), plain)


def test_more_weight_moves_the_output_further(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    plain = _run(transformer)
    attach(transformer, attentions)
    moved = [
        (_run(transformer, IdentityCall([_subject(weight=weight)])) - plain).norm().item()
        for weight in (0.1, 0.3, 0.6, 1.0)
    ]
    assert moved[0] > 0
    assert moved == sorted(set(moved))


def test_it_acts_from_its_start_step(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    plain = _run(transformer)
    attach(transformer, attentions)
    call = IdentityCall([_subject(start_step=2)])
    acted = []
    for step in range(4):
        call.at(step)
        acted.append(not torch.equal(_run(transformer, call), plain))
    assert acted == [False, False, True, True]


def test_it_acts_within_its_window_of_noise(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """Both ends belong to the window."""
    plain = _run(transformer)
    attach(transformer, attentions)
    call = IdentityCall([_subject(sigma_start=0.9, sigma_end=0.3)], sigma=1.0)
    acted = {}
    for step, sigma in enumerate((1.0, 0.9, 0.5, 0.3, 0.2)):
        call.at(step, sigma)
        acted[sigma] = not torch.equal(_run(transformer, call), plain)
    assert acted == {1.0: False, 0.9: True, 0.5: True, 0.3: True, 0.2: False}


def test_a_window_bears_rounding() -> None:
    """A schedule in fp32 meets the edges of a window that was computed in fp64."""
    rounded = torch.tensor([0.6, 0.2]).tolist()
    assert rounded[0] > 0.6
    for sigma in rounded:
        assert Subject(tokens=_noise(1, 5, ID_WIDTH), sigma_start=0.6, sigma_end=0.2).weight_at(0, sigma) == 1.0


def test_it_goes_around_a_step(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """What the sampler enters for each step: at that step, and nobody before and after."""
    plain = _run(transformer)
    attach(transformer, attentions)
    call = IdentityCall([_subject(start_step=1)])
    with call.around(0, 1.0):
        assert torch.equal(_run(transformer), plain)
    with call.around(1, 0.8):
        assert not torch.equal(_run(transformer), plain)
    assert torch.equal(_run(transformer), plain)


def test_the_innermost_context_counts(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """So the negative branch of true guidance has the unconditional identity, and the other its own again."""
    attach(transformer, attentions)
    call, unconditional = IdentityCall([_subject()]), IdentityCall([_subject(seed=9)])
    alone = _run(transformer, call), _run(transformer, unconditional)
    with identity(call):
        first = _run(transformer)
        with identity(unconditional):
            negative = _run(transformer)
        again = _run(transformer)
    assert torch.equal(first, alone[0])
    assert torch.equal(negative, alone[1])
    assert torch.equal(again, alone[0])


def test_a_model_in_bf16_stays_in_bf16(attentions: list[PerceiverAttentionCA]) -> None:
    """The weight is fp32 and so may be tokens and mask: none of them raises the image's precision."""
    image = _noise(1, IMAGE, WIDTH).bfloat16()
    found = _seen(attentions[0].bfloat16(), image, _subject(mask=torch.ones(IMAGE)))
    assert found.dtype == torch.bfloat16
    assert not torch.equal(found, image)


# Many at once


def test_a_batch_is_its_images_one_by_one(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """Within 1e-5: with one identity for both images, and with one for each."""
    attach(transformer, attentions)
    one, other = _noise(1, 5, ID_WIDTH, seed=1), _noise(1, 5, ID_WIDTH, seed=2)
    for first, second, both in ((one, one, one), (one, other, torch.cat([one, other]))):
        singles = [
            _run(transformer, IdentityCall([Subject(tokens=tokens)]), seeds=[seed])
            for seed, tokens in enumerate((first, second))
        ]
        batch = _run(transformer, IdentityCall([Subject(tokens=both)]), seeds=[0, 1])
        torch.testing.assert_close(batch, torch.cat(singles), atol=1e-5, rtol=0)


def test_a_person_acts_in_some_items_of_a_batch(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """One person in the first image of three, another by half in the last: each is as alone, and nobody is nobody.

    Bit by bit where the batch is the same, and within 1e-5 of images that are run by themselves.
    """
    attach(transformer, attentions)
    one, third = (_noise(1, 5, ID_WIDTH, seed=seed) for seed in (1, 3))
    call = IdentityCall(
        [
            Subject(tokens=one, items=torch.tensor([1.0, 0.0, 0.0])),
            Subject(tokens=torch.cat([one, one, third]), items=torch.tensor([0.0, 0.0, 0.5])),
        ]
    )
    batch, nobody = _run(transformer, call, seeds=[0, 1, 2]), _run(transformer, seeds=[0, 1, 2])
    assert torch.equal(batch[1], nobody[1])
    for number, subjects in enumerate(([Subject(tokens=one)], [], [Subject(tokens=third, weight=0.5)])):
        alone = _run(transformer, IdentityCall(subjects), seeds=[number])
        torch.testing.assert_close(batch[number : number + 1], alone, atol=1e-5, rtol=0)
    assert (batch[0] - nobody[0]).abs().max() > 1e-3


def test_calls_at_once_do_not_mix() -> None:
    """Fifty threads, each with its own identity and weight, on one model: each gets what it gets alone."""
    transformer = _transformer(doubles=1, singles=1)
    attach(transformer, _attentions(2))
    calls = [IdentityCall([_subject(seed=seed, weight=0.5 + seed / 50)]) for seed in range(50)]
    alone = [_run(transformer, call) for call in calls]
    ready = Barrier(len(calls))

    def together(call: IdentityCall) -> Tensor:
        ready.wait(timeout=30)
        with torch.no_grad():
            return _run(transformer, call)

    with ThreadPoolExecutor(len(calls)) as pool:
        found = list(pool.map(together, calls))
    for one, wanted in zip(found, alone, strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-6, rtol=0)
    assert min((a - b).abs().max().item() for a, b in pairwise(alone)) > 1e-4


# Cached


def test_a_cache_that_never_skips_changes_nothing(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    attach(transformer, attentions)
    call = IdentityCall([_subject()])
    wanted = [_run(transformer, call, seeds=[seed]) for seed in range(3)]
    transformer.enable_cache(FirstBlockCacheConfig(threshold=-1.0))
    with transformer.cache_context("cond"):
        found = [_run(transformer, call, seeds=[seed]) for seed in range(3)]
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_a_skipped_step_holds_the_identity_once(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """The same input again, skipped: the same output, and none but the first block's module has been asked."""
    asked: list[int] = []
    for number, attention in enumerate(attentions):
        attention.register_forward_hook(lambda *_, number=number: asked.append(number))
    attach(transformer, attentions)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    call = IdentityCall([_subject(weight=2.0)])
    with transformer.cache_context("cond"):
        first = _run(transformer, call)
        assert asked == [0, 1, 2]
        skipped = _run(transformer, call)
    assert asked == [0, 1, 2, 0]
    torch.testing.assert_close(skipped, first, atol=1e-5, rtol=0)


def test_hooks_would_hold_it_twice(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """Why it is not done with forward hooks: on a skipped step the same comparison fails by far."""
    subject = _subject(weight=2.0)
    for block, attention in zip(sites(transformer), attentions, strict=True):

        def added(_: Any, __: Any, output: Any, attention: PerceiverAttentionCA = attention) -> Any:
            return output[0], output[1] + subject.weight * attention(subject.tokens, output[1])

        block.register_forward_hook(added)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with transformer.cache_context("cond"):
        first, skipped = _run(transformer), _run(transformer)
    assert (skipped - first).abs().max() > 1e-2


# Compiled


def test_compiled_blocks_agree_in_every_call() -> None:
    """A worker that lives long: each block with no break in its graph, and once for another weight, person or step.

    Nobody, several people, masks and references are further variants, with room made for as many. Detached, the model
    is what it was: what was compiled with PuLID is not run without it.
    """
    _dynamo.reset()
    transformer = _transformer(doubles=1, singles=1)
    plain = _run(transformer)
    attachment = attach(transformer, _attentions(2))
    alike = [
        IdentityCall([_subject(seed=seed, weight=weight, start_step=start)])
        for seed, weight, start in ((0, 1.0, 0), (0, 0.3, 0), (1, 1.0, 0), (2, 1.0, 4), (2, 1.0, 4))
    ]
    alike[4].at(4)
    others = [
        IdentityCall([]),
        IdentityCall([_subject(), _subject(seed=6, mask=torch.linspace(0, 1, 10))], image_tokens=10),
        IdentityCall([_subject(items=torch.tensor([0.5]))]),
    ]
    wanted = [_run(transformer, call) for call in (*alike, *others)]
    with _dynamo.config.patch(recompile_limit=2):
        transformer.compile_repeated_blocks(backend="eager", fullgraph=True, recompile_limit=32)
        found = [_run(transformer, alike[0])]
        with _dynamo.config.patch(error_on_recompile=True):
            found += [_run(transformer, call) for call in alike[1:]]
        found += [_run(transformer, call) for call in others]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert (found[4] - found[3]).abs().max() > 1e-4
    assert (found[0] - plain).abs().max() > 1e-3
    attachment.detach()
    torch.testing.assert_close(_run(transformer, alike[0]), plain, atol=1e-5, rtol=0)


def test_the_whole_model_compiles_once() -> None:
    """Another weight, person or step compiles nothing."""
    _dynamo.reset()
    transformer = _transformer(doubles=1, singles=1)
    attach(transformer, _attentions(2))
    calls = [IdentityCall([_subject()]), IdentityCall([_subject(seed=1, weight=0.3, start_step=4)])]
    calls[1].at(4)
    wanted = [_run(transformer, call) for call in calls]
    transformer.compile(backend="eager")
    found = [_run(transformer, calls[0])]
    with _dynamo.config.patch(error_on_recompile=True):
        found.append(_run(transformer, calls[1]))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_depth_does_not_multiply_compilations() -> None:
    """However many blocks, four are compiled: double and single, with and without an identity after them.

    Of two of the four there are two here, and a block that is compiled twice would be seen.
    """
    _dynamo.reset()
    transformer = _transformer(doubles=3, singles=3)
    attach(transformer, _attentions(3))
    call = IdentityCall([_subject()])
    wanted = _run(transformer, call)
    counters.clear()
    transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(_run(transformer, call), wanted, atol=1e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] == 4


def test_cached_and_compiled_it_agrees() -> None:
    """With blocks compiled and the first block's cache, a step that is computed and one that is skipped."""
    _dynamo.reset()
    transformer = _transformer(doubles=1, singles=1)
    attach(transformer, _attentions(2))
    call = IdentityCall([_subject()])
    wanted = _run(transformer, call)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    transformer.compile_repeated_blocks(backend="eager")
    with transformer.cache_context("cond"):
        found = [_run(transformer, call) for _ in range(2)]
    for one in found:
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=0)


# Coming and going


def test_modules_may_be_seated_later_and_leave_their_seats_to_others() -> None:
    """Over a cache and compiled blocks, too; whoever has seen nobody sees nobody still, bit by bit."""
    _dynamo.reset()
    call, sets = IdentityCall([_subject()]), [_attentions(2) for _ in range(2)]
    for one in sets[1]:
        for weight in one.parameters():
            weight.mul_(2)

    def made(attentions: list[PerceiverAttentionCA]) -> Any:
        transformer = _transformer(doubles=1, singles=1)
        attach(transformer, attentions)
        return transformer

    nobody, wanted = _run(made([])), [_run(made(one), call) for one in sets]
    assert not torch.equal(*wanted)
    plain, quick = _transformer(doubles=1, singles=1), _transformer(doubles=1, singles=1)
    seats = [attach(one) for one in (plain, quick)]
    quick.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    quick.compile_repeated_blocks(backend="eager")
    with quick.cache_context("nobody"):
        torch.testing.assert_close(_run(quick), nobody, atol=1e-5, rtol=0)
    assert torch.equal(_run(plain), nobody)
    for number, attentions in enumerate(sets):
        for seating in seats:
            seating.seat(attentions)
        assert torch.equal(_run(plain, call), wanted[number])
        assert torch.equal(_run(plain), nobody)
        with quick.cache_context(f"set {number}"):
            torch.testing.assert_close(_run(quick, call), wanted[number], atol=1e-5, rtol=0)


def test_other_modules_in_the_seats_compile_nothing() -> None:
    _dynamo.reset()
    transformer = _transformer(doubles=1, singles=1)
    attachment, call = attach(transformer, _attentions(2)), IdentityCall([_subject()])
    transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    _run(transformer)
    _run(transformer, call)
    attachment.seat(_attentions(2))
    with _dynamo.config.patch(error_on_recompile=True):
        _run(transformer, call)
        attachment.seat([])
        _run(transformer)


def test_who_is_to_be_seen_where_nobody_can_be_is_an_error(transformer: Any) -> None:
    attachment = attach(transformer)
    _run(transformer)
    with pytest.raises(InvalidInput, match="has no identity modules"):
        _run(transformer, IdentityCall([_subject()]))
    with pytest.raises(InvalidInput, match="there are 2, but"):
        attachment.seat(_attentions(2))


def test_detached_the_model_is_what_it_was(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    """Bit-equal output, the same attributes on every module, the same state; and it may be attached again."""
    plain, attributes, state = _run(transformer), _attributes(transformer), list(transformer.state_dict())
    for _ in range(2):
        attachment = attach(transformer, attentions)
        assert list(transformer.state_dict()) == state
        assert not torch.equal(_run(transformer, IdentityCall([_subject()])), plain)
        attachment.detach()
        attachment.detach()
        assert _attributes(transformer) == attributes
        assert torch.equal(_run(transformer, IdentityCall([_subject()])), plain)


def test_detached_after_a_cache_the_model_is_what_it_was(
    transformer: Any, attentions: list[PerceiverAttentionCA]
) -> None:
    """While the cache is there it refuses, and leaves everything in place."""
    plain = _run(transformer)
    attachment = attach(transformer, attentions)
    with_identity = _run(transformer, IdentityCall([_subject()]))
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(InvalidInput, match="laid over"):
        attachment.detach()
    transformer.disable_cache()
    assert torch.equal(_run(transformer, IdentityCall([_subject()])), with_identity)
    attachment.detach()
    assert torch.equal(_run(transformer, IdentityCall([_subject()])), plain)


def test_callers_arguments_are_left_as_they_are(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    attach(transformer, attentions)
    kwargs: dict[str, Any] = {}
    _run(transformer, IdentityCall([_subject()]), joint_attention_kwargs=kwargs)
    assert kwargs == {}


# What does not fit


def test_what_cannot_be_attached_is_said(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    with pytest.raises(InvalidInput, match="there are 2, but 2 double and 5 single blocks want 3"):
        attach(transformer, attentions[:2])
    with pytest.raises(InvalidInput, match="made for width 48, the model has 32"):
        attach(transformer, [*attentions[:2], PerceiverAttentionCA(48, ID_WIDTH, 2, 8)])
    transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(InvalidInput, match="a cache is enabled"):
        attach(transformer, attentions)
    transformer.disable_cache()
    attach(transformer, attentions)
    with pytest.raises(InvalidInput, match="attached to it already"):
        attach(transformer, attentions)


def test_what_does_not_fit_the_image_is_said(transformer: Any, attentions: list[PerceiverAttentionCA]) -> None:
    attach(transformer, attentions)
    for call, message in (
        (IdentityCall([_subject(mask=torch.ones(9))]), "covers 9 tokens, but the image has 16"),
        (IdentityCall([_subject()], image_tokens=99), "is 99, but the model was given 16"),
        (IdentityCall([Subject(tokens=_noise(3, 5, ID_WIDTH))]), "are of 3 images, but the model was given 1"),
        (IdentityCall([_subject(items=torch.ones(3))]), "are for 3 images, but the model was given 1"),
        (IdentityCall([Subject(tokens=_noise(1, 5, 20))]), "are 20 wide, but the modules want 24"),
    ):
        with pytest.raises(InvalidInput, match=message):
            _run(transformer, call)
    with pytest.raises(InvalidInput, match="one of noise levels"):
        IdentityCall([_subject(sigma_start=0.9)])
    with pytest.raises(InvalidInput, match="has the shape"):
        IdentityCall([Subject(tokens=_noise(5, ID_WIDTH))])
    with pytest.raises(InvalidInput, match="has the shape"):
        IdentityCall([_subject(mask=torch.ones(4, 4))])
    with pytest.raises(InvalidInput, match="items: has the shape"):
        IdentityCall([_subject(items=torch.ones(1, 1))])


def _transformer(doubles: int = 2, singles: int = 5) -> Any:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=doubles,
        num_single_layers=singles,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    ).eval()


def _attentions(count: int) -> list[PerceiverAttentionCA]:
    torch.manual_seed(1)
    return [PerceiverAttentionCA(WIDTH, ID_WIDTH, heads=2, head_dim=8).eval() for _ in range(count)]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _subject(seed: int = 5, **settings: Any) -> Subject:
    return Subject(tokens=_noise(1, 5, ID_WIDTH, seed=seed), **settings)


def _seen(attention: PerceiverAttentionCA, image: Tensor, *subjects: Subject) -> Tensor:
    return injected(attention, image, IdentityCall(subjects).frame)


def _run(transformer: Any, call: IdentityCall | None = None, seeds: list[int] | None = None, **more: Any) -> Tensor:
    """The model's velocity [B, 16, 16] for fixed noise; within `call`, or within whatever is entered."""
    seeds = seeds or [0]
    batch = len(seeds)

    def run() -> Tensor:
        return transformer(  # type: ignore[no-any-return]
            hidden_states=torch.cat([_noise(1, IMAGE, 16, seed=seed) for seed in seeds]),
            encoder_hidden_states=_noise(1, TEXT, 32, seed=11).expand(batch, -1, -1),
            pooled_projections=_noise(1, 32, seed=12).expand(batch, -1),
            timestep=torch.full((batch,), 0.7),
            guidance=torch.full((batch,), 3.5),
            img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
            txt_ids=torch.zeros(TEXT, 3),
            return_dict=False,
            **more,
        )[0]

    if call is None:
        return run()
    with identity(call):
        return run()


def _attributes(transformer: Any) -> dict[str, set[str]]:
    return {name: set(vars(module)) for name, module in transformer.named_modules()}
