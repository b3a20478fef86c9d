"""The person is cut out whole, with soft hair and without the old background."""

import numpy as np
import pytest

from shared.vision.closed_form import closed_form_alpha
from shared.vision.codec import Image
from shared.vision.matting import Matte, foreground_colour, matte, refine_by_colour, trimap
from shared.vision.segmentation import PersonSegmenter
from tests.engines.generate_subjects import ASTRONAUT_FACE, SUBJECTS
from tests.photos import hopper

PHOTO = SUBJECTS["half body"].photo


@pytest.fixture(scope="module")
def segmenter() -> PersonSegmenter:
    return PersonSegmenter()


@pytest.fixture(scope="module")
def cut_out(segmenter: PersonSegmenter) -> Matte:
    return matte(PHOTO, segmenter.probability(PHOTO, ASTRONAUT_FACE), ASTRONAUT_FACE)


def over(cut: Matte, background: Image) -> Image:
    share = cut.alpha[..., None]
    return np.asarray(np.rint(cut.colour * share + background * (1 - share)), np.uint8)


def test_face_hair_and_clothes_are_kept(cut_out: Matte) -> None:
    for x, y in ((225, 120), (225, 25), (170, 70), (282, 70), (225, 190), (120, 330), (300, 300), (60, 420)):
        assert cut_out.alpha[y, x] > 0.95, (x, y)


def test_flag_shuttle_and_wall_are_dropped(cut_out: Matte) -> None:
    for x, y in ((30, 60), (20, 250), (60, 150), (420, 60), (400, 200), (360, 290), (140, 40), (320, 60)):
        assert cut_out.alpha[y, x] < 0.05, (x, y)


def test_hair_has_a_soft_edge_and_the_rest_is_decided(cut_out: Matte) -> None:
    soft = (cut_out.alpha > 0.05) & (cut_out.alpha < 0.95)
    hair = soft[5:140, 140:310]
    assert hair.sum() > 300
    assert soft.mean() < 0.03


def test_no_halo_on_a_dark_background(cut_out: Matte) -> None:
    """The light wall behind the dark hair leaves no ring: no edge pixel is brighter than the hair beside it."""
    dark = over(cut_out, np.full_like(PHOTO, 20))
    edge = (cut_out.alpha > 0.1) & (cut_out.alpha < 0.9)
    hair = np.zeros_like(edge)
    hair[8:120, 145:305] = True
    raw = np.rint(PHOTO * cut_out.alpha[..., None] + 20 * (1 - cut_out.alpha[..., None]))
    assert dark[edge & hair].mean() < 0.85 * raw[edge & hair].mean()
    inside = PHOTO[(cut_out.alpha > 0.98) & hair].mean()
    assert dark[edge & hair].mean() < inside


def test_colours_inside_the_person_are_those_of_the_photo(cut_out: Matte) -> None:
    inside = cut_out.alpha > 0.999
    error = np.abs(cut_out.colour[inside].astype(int) - PHOTO[inside].astype(int))
    assert error.mean() < 1


def test_known_mixture_gives_back_its_opacity() -> None:
    """A soft disc mixed from two colours is solved to within 3 %."""
    rows, columns = np.mgrid[0:80, 0:80]
    truth = np.clip((30 - np.hypot(rows - 40, columns - 40)) / 8 + 0.5, 0, 1).astype(np.float32)
    image = truth[..., None] * [0.8, 0.3, 0.1] + (1 - truth[..., None]) * [0.1, 0.4, 0.7]
    marks = np.where(truth > 0.99, 1.0, np.where(truth < 0.01, 0.0, 0.5)).astype(np.float32)
    solved = closed_form_alpha(image, marks, np.full_like(truth, 0.5), tolerance=1e-6)
    assert np.abs(solved - truth).max() < 0.03


def test_without_unknown_pixels_the_trimap_is_the_answer() -> None:
    marks = np.zeros((8, 8), np.float32)
    marks[2:6, 2:6] = 1
    assert np.array_equal(closed_form_alpha(np.zeros((8, 8, 3)), marks, marks), marks)


def test_foreground_colour_is_freed_from_the_background() -> None:
    alpha = np.clip((np.arange(100) - 45) / 10, 0, 1).astype(np.float32)[None].repeat(100, axis=0)
    person, wall = np.array([200.0, 40, 20]), np.array([20.0, 200, 220])
    mixed = np.rint(alpha[..., None] * person + (1 - alpha[..., None]) * wall).astype(np.uint8)
    own = foreground_colour(mixed, alpha, 60)
    soft = (alpha > 0.2) & (alpha < 0.9)
    assert np.abs(own[soft] - person).mean() < 0.2 * np.abs(mixed[soft] - person).mean()


def test_colours_take_back_background_that_the_network_was_unsure_of() -> None:
    image = np.full((120, 120, 3), (30, 60, 200), np.uint8)
    image[:, 60:] = (220, 120, 40)
    unsure = np.full((120, 120), 0.02, np.float32)
    unsure[:, 40:] = 0.55
    unsure[:, 70:] = 0.98
    told = refine_by_colour(image, unsure, 40)
    assert told[60, 50] < 0.2
    assert told[60, 65] > 0.8


def test_colours_say_nothing_where_all_is_person() -> None:
    certain = np.ones((60, 60), np.float32)
    assert refine_by_colour(np.zeros((60, 60, 3), np.uint8), certain, 40) is certain


def test_band_is_wider_at_the_hair_than_at_the_body() -> None:
    belief = np.zeros((300, 300), np.float32)
    belief[40:, 100:200] = 1
    marks = trimap(belief, (110, 60, 80, 90))
    assert (marks[90] == 0.5).sum() > (marks[280] == 0.5).sum() > 0


def test_a_second_photo_before_a_busy_background(segmenter: PersonSegmenter) -> None:
    photo, face = hopper(), (167.4, 130.2, 189.7, 205.6)
    alpha = matte(photo, segmenter.probability(photo, face), face).alpha
    assert min(alpha[230, 262], alpha[110, 262], alpha[560, 262], alpha[450, 100]) > 0.95
    assert max(alpha[100, 60], alpha[60, 460], alpha[330, 90], alpha[250, 440]) < 0.05


def test_same_photo_same_matte(segmenter: PersonSegmenter, cut_out: Matte) -> None:
    segmenter.probability(hopper())
    again = matte(PHOTO, PersonSegmenter().probability(PHOTO, ASTRONAUT_FACE), ASTRONAUT_FACE)
    repeated = matte(PHOTO, segmenter.probability(PHOTO, ASTRONAUT_FACE), ASTRONAUT_FACE)
    for other in (again, repeated):
        assert np.array_equal(other.alpha, cut_out.alpha)
        assert np.array_equal(other.colour, cut_out.colour)
