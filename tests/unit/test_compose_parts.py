"""Framing, continuation, light and lens, each alone."""

import numpy as np
import pytest

from services.generate.colour import LUMA, colour_of_temperature, shoulder, to_linear, to_srgb
from services.generate.defocus import blur_share, disc_blur
from services.generate.extend import Missing, extend
from services.generate.framing import cuts, place
from services.generate.relight import Match, relight
from shared.contracts.scene import Framing, Lens, Light

FACE = (150.0, 100.0, 100.0, 120.0)


def figure(width: int = 400, height: int = 500) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The opacity of a head on shoulders that run out of the picture below."""
    rows, columns = np.mgrid[0:height, 0:width]
    head = np.hypot((columns - 200) / 65, (rows - 150) / 90) < 1
    body = (rows > 240) & (np.abs(columns - 200) < 60 + 0.8 * (rows - 240).clip(0, 110))
    return np.asarray(head | body, np.float32)


def test_cuts_are_found_where_the_person_meets_the_border() -> None:
    found = cuts(figure())
    assert found.bottom is not None
    assert (found.left, found.right, found.top) == (None, None, None)


def test_a_wish_that_fits_is_granted() -> None:
    spot = place(figure(), FACE, Framing(face_width=0.24, centre_x=0.5, centre_y=0.3), 1000, 1000)
    assert (spot.face_width, spot.centre_x) == (0.24, 0.5)


def test_the_bottom_cut_stays_outside_the_frame_where_it_can() -> None:
    tall = np.pad(figure(), ((0, 200), (0, 0)), mode="edge")
    spot = place(tall, FACE, Framing(face_width=0.15, centre_y=0.25), 1000, 1000)
    assert spot.y + tall.shape[0] * spot.scale >= 999


def test_a_cut_at_the_left_stays_outside_the_frame_where_it_can() -> None:
    alpha = figure()
    alpha[300:, :200] = 1
    spot = place(np.pad(alpha, ((0, 300), (0, 0)), mode="edge"), FACE, Framing(face_width=0.2), 1000, 1000)
    assert spot.x <= 0.5


def test_the_face_lands_where_the_placement_says() -> None:
    spot = place(figure(), FACE, Framing(), 1200, 900)
    dot = np.zeros((500, 400), np.float32)
    dot[158:163, 198:203] = 1
    rows, columns = np.nonzero(spot.lay(dot, 1200, 900, 1) > 0.5)
    assert columns.mean() / 1200 == pytest.approx(spot.centre_x, abs=0.005)
    assert rows.mean() / 900 == pytest.approx(spot.centre_y, abs=0.005)


def coloured() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = np.full((500, 400, 3), (40, 80, 160), np.uint8)
    picture[60:240, 130:270] = (205, 150, 125)
    return picture


def test_nothing_missing_changes_nothing() -> None:
    colour, alpha = extend(coloured(), figure(), FACE, Missing())
    assert np.array_equal(colour, coloured())
    assert np.array_equal(alpha, figure())


def test_the_body_goes_on_below_in_its_own_colour() -> None:
    colour, alpha = extend(coloured(), figure(), FACE, Missing(left=80, right=80, bottom=200))
    assert alpha.shape == (700, 560)
    assert alpha[650, 280] == 1
    assert alpha[650, 5] == 0
    blue = colour[650, 280].astype(int)
    assert blue[2] > blue[1] > blue[0]
    widths = (alpha > 0.5).sum(axis=1)
    assert np.abs(np.diff(widths[490:])).max() < 12, "no step where the photo ends"


def test_skin_at_the_border_is_not_taken_for_cloth() -> None:
    neck = figure()[:236]
    colour, alpha = extend(coloured()[:236], neck, FACE, Missing(100, 100, 200))
    below = colour[400, 300].astype(int)
    assert below.max() < 120, "plain dark cloth, not skin"
    assert (alpha[430] > 0.5).sum() > 2.5 * FACE[2], "the neck widens to shoulders"


def test_a_shoulder_cut_at_the_side_slopes_on_and_drops() -> None:
    alpha = figure()[:, :290]
    _, wide = extend(coloured()[:, :290], alpha, FACE, Missing(right=200))
    tops = [int(np.argmax(wide[:, column] > 0.5)) for column in (293, 315, 335)]
    assert tops == sorted(tops)
    assert not (wide[:, -1] > 0.5).any()


def lit_by(light: Light) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    person = np.full((500, 400, 3), 0.3, np.float32)
    scene = np.full((500, 400, 3), 0.2, np.float32)
    lit, _ = relight(person, figure(), FACE, scene, light, Match(0.7, 0.6, 0.7, 0.0))
    return lit


def test_the_side_towards_the_key_light_is_the_brighter() -> None:
    for azimuth, sign in ((60.0, 1), (-60.0, -1)):
        lit = lit_by(Light(azimuth_deg=azimuth, key=1.0)) @ LUMA
        left, right = lit[130:190, 155:180].mean(), lit[130:190, 220:245].mean()
        assert sign * (right - left) > 0.01


def test_warm_light_warms_and_cold_light_cools_the_person() -> None:
    warm, cold = (lit_by(Light(kelvin=k, ambient_kelvin=k))[150, 200] for k in (3000.0, 9000.0))
    assert warm[0] / warm[2] > 1.2
    assert cold[0] / cold[2] < 1


def test_without_strength_nothing_is_relit() -> None:
    person = np.random.Generator(np.random.PCG64(1)).random((500, 400, 3), dtype=np.float32)
    lit, _ = relight(person, figure(), FACE, person, Light(azimuth_deg=90), Match(0, 0, 0, 0))
    assert np.allclose(lit, person, atol=1e-5)


def test_light_wraps_around_the_outline_and_not_into_the_middle() -> None:
    person, scene = np.full((500, 400, 3), 0.05, np.float32), np.full((500, 400, 3), 0.9, np.float32)
    alpha = figure()
    dull, glowing = (relight(person, alpha, FACE, scene, Light(), Match(0, 0, 0, wrap))[0] for wrap in (0.0, 1.0))
    gain = (glowing - dull)[..., 0]
    assert gain[150, 137] > 3 * gain[150, 200]


def test_defocus_follows_the_thin_lens() -> None:
    """85 mm at f/1.8 focused at 2 m: a point at infinity becomes a disc of 2.1 mm on the 36 mm sensor."""
    lens = Lens(focal_mm=85.0, f_number=1.8, focus_m=2.0)
    assert blur_share(lens, 1e9) * 36 == pytest.approx(85 / 1.8 * 85 / (2000 - 85), rel=1e-6)
    assert blur_share(lens, 2.0) == 0
    assert blur_share(lens, 4.0) == pytest.approx(blur_share(lens, 1e9) / 2, rel=1e-6)


def test_defocus_keeps_the_light() -> None:
    picture = np.zeros((60, 60, 3), np.float32)
    picture[30, 30] = 100
    blurred = disc_blur(picture, 15.3)
    assert blurred.sum() == pytest.approx(picture.sum(), rel=1e-3)
    assert (blurred[..., 0] > 0.01).sum() == pytest.approx(np.pi * 15.3**2 / 4, rel=0.2)


def test_linear_light_and_back_is_the_same() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(np.rint(to_srgb(to_linear(levels))), levels)


def test_temperature_runs_from_red_to_blue() -> None:
    red_over_blue = [float(c[0] / max(c[2], 1e-3)) for c in map(colour_of_temperature, (2500, 4000, 5500, 6500, 10000))]
    assert red_over_blue == sorted(red_over_blue, reverse=True)
    assert colour_of_temperature(6600) == pytest.approx(1, abs=0.06)


def test_highlights_roll_off_below_white_and_shadows_stay() -> None:
    bright = shoulder(np.array([0.1, 0.5, 1.0, 5.0, 100.0], np.float32))
    assert bright[:2] == pytest.approx([0.1, 0.5])
    assert (np.diff(bright) > 0).all()
    assert bright.max() <= 1
