"""Swapped faces are restored, after they are laid in or before, and nobody else's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.swap.flux_face import Plan, carry_out
from services.swap.stage import FluxFaceParams
from services.swap.swapping.choice import Choice
from services.swap.swapping.networks import Networks
from services.swap.swapping.restore import Restoring, face_boost, found_again, iou
from services.swap.swapping.subjects import Subject
from services.swap.swapping.swapper import open_swapper
from shared.vision.codec import Image
from shared.vision.networks import tiny_swapper
from shared.vision.networks.insight import Insight, InsightFace
from tests.engines.swap_models import PACK, SIX, SWAPPER, crowd, opened, params, write
from tests.photos import astronaut


class Whitening:
    """A restorer that makes faces white, and notes what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Image] = []
        self.weights: list[float] = []

    def restore(self, crops: Sequence[Image], weight: float) -> list[Image]:
        self.shown += crops
        self.weights.append(weight)
        return [np.full_like(crop, 255) for crop in crops]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write(folder, SIX)
    return folder


@pytest.fixture(scope="module")
def insight(models: Path) -> Insight:
    return opened(models / PACK)


def face(x: float, y: float, width: float, height: float) -> InsightFace:
    return InsightFace((x, y, width, height), np.zeros((5, 2)), np.ones(512, np.float32), 0.9)


def restored(models: Path, insight: Insight, restorer: Any, told: FluxFaceParams) -> tuple[Image, int]:
    """The photo of six with its largest face swapped and restored."""
    faces = insight.find(crowd())
    subject = Subject(insight.find(astronaut())[0].embedding, 1, ())
    plan = Plan(faces, (subject,), (Choice(1, faces[0], 0.5),))
    swapper = open_swapper(SWAPPER, models / SWAPPER / tiny_swapper.SWAPPER, "cpu")
    done = carry_out(plan, crowd(), Networks(swapper, None, None, restorer), insight, told, lambda _: None)
    return done.image, done.restored


def region(one: InsightFace) -> tuple[slice, slice]:
    x, y, width, height = (round(value) for value in one.box)
    return slice(y + height // 3, y + 2 * height // 3), slice(x + width // 3, x + 2 * width // 3)


@pytest.mark.parametrize("when", ["after", "before"])
def test_only_the_swapped_face_is_restored(models: Path, insight: Insight, when: str) -> None:
    restorer = Whitening()
    image, count = restored(models, insight, restorer, params(restore=when, restorer_weight=0.3))
    faces = insight.find(crowd())
    assert count == len(restorer.shown) == 1
    assert restorer.weights == [0.3]
    assert restorer.shown[0].shape == (512, 512, 3)
    assert image[region(faces[0])].min() > 250
    for other in faces[1:]:
        assert np.array_equal(image[region(other)], crowd()[region(other)])


def test_after_the_paste_the_restorer_sees_the_swapped_face(models: Path, insight: Insight) -> None:
    """The whole of it as FFHQ cuts it; before, the upright crop enlarged: the eyes are then farther apart."""
    crops = []
    for when in ("after", "before"):
        restorer = Whitening()
        restored(models, insight, restorer, params(restore=when))
        crops += restorer.shown
    assert not np.array_equal(crops[0], crops[1])


def test_visibility_is_the_restored_face_s_opacity(models: Path, insight: Insight) -> None:
    levels = []
    for visibility in (0.0, 0.5, 1.0):
        for when in ("after", "before"):
            told = params(restore=when, restorer_visibility=visibility)
            image, _ = restored(models, insight, Whitening(), told)
            levels.append(float(image[region(insight.find(crowd())[0])].mean()))
    assert levels[0] == pytest.approx(levels[1], abs=3)
    assert levels[2] == pytest.approx((levels[0] + 255) / 2, abs=3)
    assert levels[3] == pytest.approx((levels[1] + 255) / 2, abs=3)
    assert min(levels[4:]) > 250


@pytest.mark.parametrize("side_px", [128, 512, 1024])
def test_face_boost_restores_at_512_pixels_whatever_the_crop_s_size(side_px: int) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (side_px, side_px, 3), np.uint8)
    restorer = Whitening()
    boosted = face_boost(crop, Restoring(restorer, 0.5, 1.0))
    assert boosted.shape == restorer.shown[0].shape == (512, 512, 3)
    assert boosted.min() == 255


def test_without_a_restorer_nothing_is_restored(models: Path, insight: Insight) -> None:
    image, count = restored(models, insight, None, params())
    assert count == 0
    assert not np.array_equal(image, crowd())


def test_a_face_is_found_again_by_overlap_and_nearness() -> None:
    was = face(100, 100, 80, 100)
    near, far, small = face(104, 98, 80, 100), face(150, 100, 80, 100), face(120, 120, 30, 40)
    assert found_again([was], [far, small, near]) == (near,)
    assert found_again([was], [far, small]) == ()
    assert found_again([was, face(103, 100, 80, 100)], [near]) == (near,)
    shifted = face(126, 100, 80, 100)
    assert iou(was.box, shifted.box) > 0.5
    assert found_again([was], [shifted]) == ()


def test_boxes_that_do_not_touch_share_nothing() -> None:
    assert iou((0, 0, 10, 10), (20, 0, 10, 10)) == 0.0
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
