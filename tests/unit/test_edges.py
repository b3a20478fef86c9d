"""Drawings of a picture: edges where things end, nothing where nothing is, and a picture's proportions kept."""

import numpy as np
import pytest

from shared.contracts.errors import InvalidInput
from shared.vision.codec import Image
from shared.vision.edges import canny, control_picture, drawn, fitted, scribble


def box(size: int = 256, inside: int = 200, outside: int = 60) -> Image:
    """A square in the middle, half as wide as the picture."""
    picture = np.full((size, size, 3), outside, np.uint8)
    picture[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = inside
    return picture


def noisy(picture: Image, deviation: float) -> Image:
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["canny", "scribble"])
def test_a_drawing_is_white_on_black_along_the_outline(kind: str) -> None:
    drawing = drawn(kind, box())
    assert drawing.dtype == np.uint8
    assert drawing.shape == (256, 256, 3)
    assert np.array_equal(drawing[..., 0], drawing[..., 1])
    assert np.array_equal(drawing[..., 0], drawing[..., 2])
    assert drawing[128, 62:67].max() > 240, "the left side"
    assert drawing[100:156, 100:156].max() == 0, "inside"
    assert drawing[:50].max() == 0, "outside"


def test_canny_draws_one_pixel_wide_and_a_scribble_wider_with_soft_sides() -> None:
    thin, thick = canny(box())[128, :128, 0], scribble(box())[128, :128, 0]
    assert sorted(np.unique(thin)) == [0, 255]
    assert (thin == 255).sum() == 1
    assert (thick > 127).sum() >= 3
    assert len(np.unique(thick)) > 2


def test_a_scribble_grows_with_the_picture() -> None:
    widths = [int((scribble(box(size))[size // 2, : size // 2, 0] > 127).sum()) for size in (512, 1024)]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("grey", [0, 30, 128, 255])
def test_where_nothing_is_nothing_is_drawn(grey: int) -> None:
    """Not the noise of a sensor either, however dark the picture."""
    flat = noisy(box(inside=grey, outside=grey), 6)
    assert canny(flat).max() == 0
    assert scribble(flat).max() == 0


def test_thresholds_follow_the_picture() -> None:
    """In a bright picture what would be an edge in a dark one is texture."""
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, 32:] = 30
    assert canny(texture + np.uint8(20)).max() == 255
    bright = texture + np.uint8(200)
    bright[:16] = 180
    assert canny(bright)[32:].max() == 0


def test_a_scribble_leaves_specks_out() -> None:
    specks = np.full((512, 512, 3), 60, np.uint8)
    specks[100::100, 100::100] = 255
    specks[200:203, 300:303] = 255
    assert scribble(specks).max() == 0
    assert canny(specks).max() == 255


@pytest.mark.parametrize("kind", ["openpose", "depth", "seg"])
def test_what_is_not_drawn_here_must_be_handed_in(kind: str) -> None:
    with pytest.raises(InvalidInput, match=rf"only canny and scribble .* Hand in a picture that is '{kind}' already"):
        drawn(kind, box())


@pytest.mark.parametrize("size", [(100, 200), (200, 100), (64, 64), (500, 333)])
def test_a_picture_is_scaled_and_cut_without_distortion(size: tuple[int, int]) -> None:
    """A square in the middle stays a square in the middle, at any size and any proportion."""
    width, height = size
    made = fitted(box(), width, height)
    assert made.shape == (height, width, 3)
    bright = made[..., 0] > 130
    across, down = bright.any(axis=0).sum(), bright.any(axis=1).sum()
    side = max(width, height) / 2
    assert across == pytest.approx(min(side, width), abs=2)
    assert down == pytest.approx(min(side, height), abs=2)
    assert np.flatnonzero(bright.any(axis=0)).mean() == pytest.approx((width - 1) / 2, abs=1)


def test_a_picture_that_fits_stays_as_it_is_and_a_map_keeps_its_colours() -> None:
    assert np.array_equal(fitted(box(), 256, 256), box())
    assert set(np.unique(fitted(box(), 300, 200, exact_colours=True))) == {60, 200}
    assert len(np.unique(fitted(box(), 300, 200))) > 2


def test_a_picture_is_scaled_before_it_is_drawn_and_a_drawing_only_scaled() -> None:
    """Lines keep their width whatever the size that was handed in."""
    made = control_picture("canny", box(512), 256, 256, from_picture=True)
    assert (made[128, :128, 0] == 255).sum() == 1
    assert np.array_equal(control_picture("depth", box(512), 256, 128), fitted(box(512), 256, 128))
    assert set(np.unique(control_picture("seg", box(512), 200, 300))) == {60, 200}
