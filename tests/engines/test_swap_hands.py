"""Hands are restored gently, and nothing else is touched."""

import cv2
import numpy as np
import pytest

from services.swap.portable_hands import PortableHands, outline, restore_hand
from services.swap.stage import HandsParams
from shared.vision.blend import Region, to_lab
from shared.vision.codec import decode, encode_png
from shared.vision.hands import Hand, HandFinder
from shared.worker.operation import Work
from tests.pictures import difference, drawn_hand, noisy


@pytest.fixture(scope="module")
def engine() -> PortableHands:
    return PortableHands()


@pytest.fixture(scope="module")
def hand() -> Hand:
    (found,) = HandFinder().find(drawn_hand())
    return found


def work(data: bytes, **params: object) -> Work[HandsParams]:
    return Work(HandsParams.model_validate(params), {"image": (data,)}, seed=0)


def test_a_picture_without_hands_passes_byte_for_byte_and_says_so(engine: PortableHands) -> None:
    data = encode_png(np.full((512, 512, 3), 160, np.uint8))
    outcome = engine.run(work(data))
    assert outcome.outputs["image"].data == data
    assert outcome.facts["hands"] == 0
    assert outcome.facts["note"] == "No hands were found; the picture is unchanged."


def test_a_hand_is_restored_and_the_same_work_gives_the_same_bytes(engine: PortableHands) -> None:
    data = encode_png(noisy(drawn_hand(), 6))
    first, second = engine.run(work(data)), engine.run(work(data))
    assert first.outputs["image"].data != data
    assert first.outputs["image"].data == second.outputs["image"].data
    assert first.facts["hands"] == 1


def test_noise_on_the_hand_goes_and_the_hand_stays(hand: Hand) -> None:
    clean = drawn_hand()
    dirty = noisy(clean, 6)
    mended = restore_hand(dirty, hand, HandsParams(strength=0.0, denoise=1.0))
    region = Region.around(hand.landmarks, 0, clean)
    assert difference(region.of(mended), region.of(clean)) < 0.7 * difference(region.of(dirty), region.of(clean))


def test_the_picture_outside_the_hands_outline_keeps_its_bytes(hand: Hand) -> None:
    image = noisy(drawn_hand(), 6)
    mended = restore_hand(image, hand, HandsParams())
    everywhere = Region(0, 0, 512, 512)
    untouched = outline(hand, everywhere) == 0
    assert 0.3 < untouched.mean() < 0.95
    assert np.array_equal(mended[untouched], image[untouched])


def test_the_outline_fades_without_a_step(hand: Hand) -> None:
    mask = outline(hand, Region(0, 0, 512, 512))
    assert mask.max() == 1
    assert max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()) < 0.08


def test_more_strength_gives_more_contrast(hand: Hand) -> None:
    image = drawn_hand()
    changes = [
        difference(restore_hand(image, hand, HandsParams(strength=s, denoise=0.0)), image) for s in (0.0, 0.5, 1.0)
    ]
    assert changes[0] < 0.01
    assert changes[0] < changes[1] < changes[2]


def test_no_pixel_glows_beyond_its_neighbourhood(hand: Hand) -> None:
    image = drawn_hand()
    mended = restore_hand(image, hand, HandsParams(strength=1.0, denoise=0.0))
    before, after = to_lab(image)[..., 0], to_lab(mended)[..., 0]
    window = np.ones((11, 11), np.uint8)
    assert (after <= cv2.dilate(before, window) + 0.6).all()
    assert (after >= cv2.erode(before, window) - 0.6).all()


def test_only_the_largest_hands_are_restored(engine: PortableHands) -> None:
    pair = np.hstack((drawn_hand(), np.ascontiguousarray(drawn_hand()[:, ::-1])))
    data = encode_png(noisy(pair, 3))
    assert engine.run(work(data)).facts["hands"] == 2
    outcome = engine.run(work(data, max_hands=1))
    assert outcome.facts["hands"] == 1
    changed = np.abs(decode(outcome.outputs["image"].data).astype(int) - decode(data)).max(axis=(0, 2)) > 0
    assert changed[:512].any() != changed[512:].any()
