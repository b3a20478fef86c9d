"""Where a swapped face shows, and that it is laid in without a rim."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.swap.swapping.align import TEMPLATE, Matrix
from services.swap.swapping.masks import FACE_CLASSES, box_mask, insightface_mask, occlusion_mask, parsed_mask
from services.swap.swapping.networks import Networks
from services.swap.swapping.paste import coloured, mask_of, paste
from services.swap.swapping.restore import Restoring
from services.swap.swapping.swap import swap
from services.swap.swapping.swapper import Swapper, open_swapper
from shared.contracts.errors import Permanent
from shared.models.onnx import open_session
from shared.vision.codec import Image
from shared.vision.networks import tiny_swapper
from shared.vision.networks.insight import InsightFace
from tests.engines.swap_models import params

MATRIX: Matrix = np.array([(0.5, 0.0, -30.0), (0.0, 0.5, -40.0)])
"""A face of 256 pixels at (60, 80) into a crop of 128."""

SIZE = (480, 440)

POINTS: NDArray[np.float64] = TEMPLATE * 256.0 + np.array((60.0, 80.0))


class ByColour(nn.Module):
    """Takes what is red for skin and all else for hair: the face parser's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores [B, 19, H, W]."""
        scores = torch.zeros(pixels.shape[0], 19, *pixels.shape[2:])
        red = pixels[:, 0] > pixels[:, 2]
        scores[:, 1][red] = 1.0
        scores[:, 17][~red] = 1.0
        return scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_swapper.write(folder)
    tiny_swapper.write_occluder(folder / "xseg.onnx")
    return folder


@pytest.fixture(scope="module")
def occluder(folder: Path) -> Any:
    return open_session(folder / "xseg.onnx", "cpu")


@pytest.fixture(scope="module")
def swapper(folder: Path) -> Swapper:
    return open_swapper("inswapper_128", folder / tiny_swapper.SWAPPER, "cpu")


def halves(left: tuple[int, int, int], right: tuple[int, int, int], side_px: int = 128) -> Image:
    crop = np.empty((side_px, side_px, 3), np.uint8)
    crop[:, : side_px // 2], crop[:, side_px // 2 :] = left, right
    return crop


RED, BLUE = (210, 90, 80), (40, 60, 220)


def as_facefusion(side_px: int, blur: float, padding: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    """Its `create_box_mask`, in its words: padding in hundredths, at the upper, right, lower and left edge."""
    amount = int(side_px * 0.5 * blur)
    area = max(amount // 2, 1)
    mask = np.ones((side_px, side_px), np.float32)
    mask[: max(area, int(side_px * padding[0] / 100)), :] = 0
    mask[-max(area, int(side_px * padding[2] / 100)) :, :] = 0
    mask[:, : max(area, int(side_px * padding[3] / 100))] = 0
    mask[:, -max(area, int(side_px * padding[1] / 100)) :] = 0
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), amount * 0.25)) if amount > 0 else mask


@pytest.mark.parametrize("side_px", [128, 256, 512])
@pytest.mark.parametrize("blur", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (10, 20, 30, 40)])
def test_the_box_is_facefusion_s(side_px: int, blur: float, padding: tuple[int, int, int, int]) -> None:
    shares = tuple(hundredth / 100 for hundredth in padding)
    assert np.array_equal(box_mask(side_px, blur, shares), as_facefusion(side_px, blur, padding))


def test_the_parsed_mask_shows_the_face_and_no_hair() -> None:
    mask = parsed_mask(halves(RED, BLUE), ByColour())
    assert mask.dtype == np.float32
    assert mask[:, :50].min() > 0.99
    assert mask[:, 64:].max() < 0.1
    assert set(FACE_CLASSES) == {1, 2, 3, 4, 5, 6, 10, 11, 12, 13}


def test_the_occlusion_mask_hides_what_lies_before_the_face(occluder: Any) -> None:
    mask = occlusion_mask(halves(RED, BLUE, 256), occluder, "xseg")
    assert mask[:, :100].min() > 0.99
    assert mask[:, 130:].max() < 0.1


def test_what_is_no_occluder_is_refused(swapper: Swapper) -> None:
    with pytest.raises(Permanent, match="an occluder takes"):
        occlusion_mask(halves(RED, BLUE), swapper.session, "inswapper_128")


class Broken:
    """An occluder of which nothing is a number."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", shape=[1, 256, 256, 3])]

    def run(self, _: object, given: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [np.full_like(given["input"][..., :1], np.nan)]


def test_an_occluder_that_gives_no_numbers_is_an_error_and_no_hidden_face() -> None:
    with pytest.raises(Permanent, match="what is no number"):
        occlusion_mask(halves(RED, BLUE), Broken(), "xseg")


def test_the_least_of_all_masks_counts() -> None:
    left, right = np.zeros((128, 128), np.float32), np.zeros((128, 128), np.float32)
    left[:, :80], right[:, 50:] = 1.0, 0.5
    both = mask_of(MATRIX, 128, SIZE, [left, right], True, 1.0)
    plain = mask_of(MATRIX, 128, SIZE, [], True, 1.0)
    half = mask_of(MATRIX, 128, SIZE, [left, right], True, 0.5)
    assert both is not None
    assert plain is not None
    assert half is not None
    assert plain[208, 188] == pytest.approx(1.0)
    assert both[208, 188] == pytest.approx(0.5)
    assert half[208, 188] == pytest.approx(0.25)
    assert both[208, 120] == both[208, 260] == 0.0
    assert (both <= plain).all()


def test_masks_of_the_crop_are_made_larger_with_it() -> None:
    """After Face Boost the crop is of 512 pixels, and its masks of 128."""
    mask = box_mask(128, 0.3)
    small = mask_of(MATRIX, 128, SIZE, [mask], False, 1.0)
    large = mask_of(MATRIX * 4.0, 512, SIZE, [mask], False, 1.0)
    assert small is not None
    assert large is not None
    assert np.abs(small - large).max() < 0.1


def test_no_mask_shows_anything_outside_the_crop_s_square() -> None:
    for published in (True, False):
        mask = mask_of(MATRIX, 128, SIZE, [box_mask(128, 0.3)], published, 1.0)
        assert mask is not None
        assert mask[:70].max() == 0.0
        assert mask[:, 330:].max() == 0.0


def test_a_face_outside_the_picture_has_no_mask() -> None:
    assert insightface_mask(MATRIX, 128, (40, 40)) is None
    assert mask_of(MATRIX, 128, (40, 40), [box_mask(128, 0.3)], False, 1.0) is None


@pytest.mark.parametrize(
    "masks", [("insightface",), ("box",), ("box", "occlusion"), ("insightface", "box", "parsed", "occlusion")]
)
@pytest.mark.parametrize("alignment", ["insightface", "facefusion"])
@pytest.mark.parametrize("boost_px", [128, 256])
def test_a_face_is_laid_in_without_a_rim(masks: tuple[str, ...], alignment: str, boost_px: int, occluder: Any) -> None:
    """A swapper that leaves all as it is leaves no trace: no dark or bright line round the face."""
    picture = np.full((*SIZE, 3), (200, 160, 140), np.uint8)
    face = InsightFace((60.0, 80.0, 256.0, 256.0), POINTS, np.ones(512, np.float32), 0.9)
    same = Networks(Unchanging(), ByColour(), occluder, None)  # type: ignore[arg-type]
    latent = np.ones((1, 512), np.float32)
    told = params(masks=masks, alignment=alignment, boost_px=boost_px)
    result = swap(picture, face, latent, same, told)
    assert not isinstance(result, str)
    assert np.abs(result.astype(int) - picture).max() <= 2


@pytest.mark.parametrize("boost_px", [128, 256, 1024])
def test_a_face_restored_before_it_is_laid_in_stays_in_its_place(boost_px: int) -> None:
    """To a fraction of a pixel: a restorer that leaves all as it is leaves waves as they are."""
    down, across = np.mgrid[: SIZE[0], : SIZE[1]] * (2 * np.pi / 48)
    waves = np.stack((np.sin(across), np.sin(down), np.sin((across + down) / 2)), axis=-1)
    picture = np.rint(128 + 100 * waves).astype(np.uint8)
    face = InsightFace((60.0, 80.0, 256.0, 256.0), POINTS, np.ones(512, np.float32), 0.9)
    same = Networks(Unchanging(), None, None, None)  # type: ignore[arg-type]
    told = params(masks=("box",), boost_px=boost_px)
    result = swap(picture, face, np.ones((1, 512), np.float32), same, told, Restoring(Unrestored(), 0.5, 1.0))
    assert not isinstance(result, str)
    assert np.abs(result.astype(int) - picture).max() <= 2


@pytest.mark.parametrize("degrees", [0, 20])
def test_detail_that_is_finer_than_the_picture_is_averaged_and_does_not_alias(degrees: int) -> None:
    """A restorer's checks of single pixels, on a face of which two and a half come to lie on one of the picture."""
    picture = np.full((*SIZE, 3), 128, np.uint8)
    turn = cv2.getRotationMatrix2D((220.0, 240.0), degrees, 200 / 256)
    points = POINTS @ turn[:, :2].T + turn[:, 2]
    face = InsightFace((120.0, 140.0, 200.0, 200.0), points, np.ones(512, np.float32), 0.9)
    same = Networks(Unchanging(), None, None, None)  # type: ignore[arg-type]
    latent = np.ones((1, 512), np.float32)
    result = swap(picture, face, latent, same, params(masks=("box",)), Restoring(Checks(), 0.5, 1.0))
    assert not isinstance(result, str)
    assert result.min() < 128
    assert np.abs(result.astype(int) - picture).max() < 40


class Checks:
    """A restorer that gives checks of single pixels, black and white, whatever it is shown."""

    def restore(self, crops: Sequence[Image], _: float) -> list[Image]:
        return [np.repeat(np.indices((512, 512)).sum(axis=0)[..., None] % 2 * 255, 3, axis=2).astype(np.uint8)] * len(
            crops
        )


class Unrestored:
    """A restorer that gives what it is shown."""

    def restore(self, crops: Sequence[Image], _: float) -> list[Image]:
        return list(crops)


class Unchanging:
    """A swapper that gives what it is shown."""

    side_px = 128

    def swap(self, faces: list[Image], _: Any) -> list[Image]:
        return list(faces)


def test_levels_are_cut_off_as_published() -> None:
    """Insightface does not round: a half-opaque 101 over 100 stays 100."""
    image, crop = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 101, np.uint8)
    mask = np.full((8, 8), 0.5, np.float32)
    assert paste(image, crop, np.eye(3)[:2], mask, False).max() == 100


def test_colours_follow_the_picture_s_as_far_as_told() -> None:
    random = np.random.default_rng(0)
    under = np.clip(random.normal((150, 110, 90), 12, (128, 128, 3)), 0, 255).astype(np.uint8)
    crop = np.clip(under * np.array((0.7, 0.9, 1.2)), 0, 255).astype(np.uint8)
    off = [
        float(np.abs(np.median(coloured(crop, under, [], one), axis=(0, 1)) - np.median(under, axis=(0, 1))).max())
        for one in (0.0, 0.5, 1.0)
    ]
    assert np.array_equal(coloured(crop, under, [], 0.0), crop)
    assert off[2] < 3 < off[1] < off[0]
