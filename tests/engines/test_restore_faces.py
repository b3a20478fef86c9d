"""Restored faces come to lie where they were cut from, without a trace around them."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from torch import nn

from shared.contracts.errors import InvalidInput
from shared.vision.blend import Mask
from shared.vision.codec import Image
from shared.vision.networks.crop512 import SIDE_PX, TEMPLATE, Points, crop512, crop_matrix
from shared.vision.networks.restorer import Restorer, laid_back, restore_faces, soft_square, upright
from tests.engines.synthetic_antelope import ASTRONAUT_POINTS
from tests.photos import astronaut
from tests.pictures import psnr

POINTS: Points = np.array(ASTRONAUT_POINTS, np.float64)


class Fake(Restorer):
    """Does to each face what it is told to, and remembers what it was given."""

    def __init__(self, does: Callable[[Image], Image]) -> None:
        nn.Module.__init__(self)
        self.does = does
        self.given: list[Image] = []
        self.weights: list[float] = []

    def restore(self, crops: Sequence[Image], weight: float) -> list[Image]:
        self.given += crops
        self.weights.append(weight)
        return [self.does(crop) for crop in crops]


def same(crop: Image) -> Image:
    return crop.copy()


def red(crop: Image) -> Image:
    return np.full_like(crop, (255, 0, 0))


def smooth(side_px: int) -> Image:
    """A picture without edges, in which any halo shows."""
    ramp = np.linspace(40, 210, side_px)
    shares = ((0.5, 0.5), (0.9, 0.1), (0.2, 0.8))
    return np.asarray(np.stack([np.add.outer(a * ramp, b * ramp) for a, b in shares], -1), np.uint8)


def square(points: Points, picture: Image) -> Mask:
    height, width = picture.shape[:2]
    return soft_square(crop_matrix(points), (height, width))


def test_outside_the_squares_the_picture_stays_bit_by_bit() -> None:
    picture = astronaut()
    changed = (restore_faces(picture, [POINTS], Fake(red)) != picture).any(axis=2)
    inside = square(POINTS, picture) > 0
    assert changed.any()
    assert not (changed & ~inside).any()
    assert np.array_equal(picture, astronaut())


def test_the_square_is_solid_within_soft_at_its_edge_and_ends_before_it() -> None:
    mask = soft_square(np.eye(2, 3), (SIDE_PX, SIDE_PX))
    assert mask[51:-51, 51:-51].min() == 1
    assert mask[:10].max() == mask[:, -10:].max() == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.05
    assert np.array_equal(mask, mask[::-1, ::-1])


@pytest.mark.parametrize("points", [POINTS / 2, POINTS, TEMPLATE * 2 + 30.0], ids=["small", "as it is", "large"])
def test_a_face_that_is_not_changed_leaves_no_halo(points: Points) -> None:
    """In a smooth picture nothing but rounding may show, neither smaller nor larger than the restorer's 512 pixels."""
    picture = smooth(1100)
    restored = restore_faces(picture, [points], Fake(same))
    assert np.abs(restored.astype(int) - picture).max() <= 2


def test_a_face_is_laid_back_to_the_pixel() -> None:
    picture = astronaut()
    inside = square(POINTS, picture) == 1
    restored = restore_faces(picture, [POINTS], Fake(same))
    shifted = np.roll(picture, 1, axis=1)
    there, aside = (psnr(one[inside][None], picture[inside][None]) for one in (restored, shifted))
    assert there > 32
    assert there > aside + 6


def test_a_small_face_is_cut_as_the_restorers_were_trained() -> None:
    fake = Fake(same)
    restore_faces(astronaut(), [POINTS], fake, weight=0.3)
    assert np.array_equal(fake.given[0], crop512(astronaut(), POINTS))
    assert fake.weights == [0.3]


def test_a_large_face_is_cut_without_aliasing() -> None:
    """Each pixel of the crop is the mean of all sixteen that it stands for, which takes noise to a fourth."""
    noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 1), np.uint8).repeat(3, axis=2)
    points = (TEMPLATE + 0.5) * 4 - 0.5
    assert upright(noise, crop_matrix(points)).std() == pytest.approx(noise.std() / 4, rel=0.05)
    assert crop512(noise, points).std() > 1.8 * noise.std() / 4


def test_visibility_mixes_and_at_nought_nothing_is_computed() -> None:
    picture, fake = astronaut(), Fake(red)
    half = restore_faces(picture, [POINTS], fake, visibility=0.5)
    x, y = 226, 130
    assert np.abs(half[y, x] - (picture[y, x] + np.array((255.0, 0, 0))) / 2).max() <= 1
    hidden = restore_faces(picture, [POINTS], fake, visibility=0)
    assert np.array_equal(hidden, picture)
    assert hidden is not picture
    assert len(fake.given) == 1


def test_no_face_is_no_change() -> None:
    assert np.array_equal(restore_faces(astronaut(), [], Fake(red)), astronaut())


def test_of_two_faces_whose_squares_overlap_the_larger_stands_whole() -> None:
    picture = astronaut()
    beside = (POINTS - POINTS.mean(axis=0)) * 0.5 + POINTS.mean(axis=0) + np.array((50.0, 0.0))
    faces = iter(((0, 0, 255), (255, 0, 0)))

    def painted(crop: Image) -> Image:
        return np.full_like(crop, next(faces))

    restored = restore_faces(picture, [POINTS, beside], Fake(painted))
    solid = square(POINTS, picture) == 1
    other = square(beside, picture) == 1
    assert (restored[solid] == (0, 0, 255)).all()
    assert (solid & other).any()
    assert (restored[other & ~(square(POINTS, picture) > 0)] == (255, 0, 0)).all()


def test_a_face_at_the_pictures_border_is_restored_as_far_as_it_is_seen() -> None:
    picture = astronaut()[:, 200:]
    points = POINTS - np.array((200.0, 0.0))
    restored = restore_faces(picture, [points], Fake(red))
    assert restored.shape == picture.shape
    assert (restored[130, 0] == (255, 0, 0)).all()


def test_a_tiny_face_is_restored_where_it_is() -> None:
    """Four pixels from eye to eye; beyond its square no byte changes."""
    picture = astronaut()
    points = (POINTS - POINTS.mean(axis=0)) / 10 + 300.0
    changed = (restore_faces(picture, [points], Fake(red)) != picture).any(axis=2)
    assert changed[300, 300]
    assert not (changed & (square(points, picture) == 0)).any()


def test_a_face_in_profile_is_restored_where_it_is() -> None:
    """Its eyes nearly one behind the other, and its nose beyond them."""
    picture = astronaut()
    points = POINTS.mean(axis=0) + np.array([(0, -22), (4, -22), (-14, 0), (-4, 20), (0, 20)], np.float64)
    changed = (restore_faces(picture, [points], Fake(red)) != picture).any(axis=2)
    assert changed[tuple(points.mean(axis=0).astype(int)[::-1])]
    assert not (changed & (square(points, picture) == 0)).any()


def test_a_face_outside_the_picture_changes_nothing() -> None:
    matrix = crop_matrix(POINTS + 5000.0)
    assert np.array_equal(laid_back(astronaut(), red(np.empty((512, 512, 3), np.uint8)), matrix, 1.0), astronaut())


def test_only_a_face_that_is_laid_back_larger_is_enlarged_first() -> None:
    asked: list[tuple[int, ...]] = []

    def larger(face: Image) -> Image:
        asked.append(face.shape)
        return np.repeat(np.repeat(face, 2, axis=0), 2, axis=1)

    restore_faces(astronaut(), [POINTS], Fake(same), larger=larger)
    assert asked == []
    picture, points = np.asarray(cv2.resize(astronaut(), (1100, 1100)), np.uint8), TEMPLATE * 2 + 30.0
    plain = restore_faces(picture, [points], Fake(same))
    grown = restore_faces(picture, [points], Fake(same), larger=larger)
    assert asked == [(512, 512, 3)]
    assert psnr(plain, grown) > 38


def test_a_face_that_was_enlarged_too_far_is_averaged_and_does_not_alias() -> None:
    """A network makes four times 512 pixels of a face that is laid back at 560: its finest stripes become grey."""

    def striped(face: Image) -> Image:
        side = 4 * face.shape[0]
        stripes = np.tile(np.array((0, 255), np.uint8), side // 2)
        return np.ascontiguousarray(np.broadcast_to(stripes[None, :, None], (side, side, 3)))

    picture, points = np.full((700, 700, 3), 128, np.uint8), TEMPLATE * (560 / SIDE_PX) + 60.0
    made = restore_faces(picture, [points], Fake(same), larger=striped)
    assert np.abs(made[150:550, 150:550].astype(int) - 128).max() <= 16


def test_points_from_which_no_face_can_be_made_are_refused() -> None:
    with pytest.raises(InvalidInput, match="key points"):
        restore_faces(astronaut(), [np.zeros((5, 2))], Fake(red))
