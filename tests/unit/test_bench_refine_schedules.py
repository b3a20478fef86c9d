"""The figures behind portrait-plus measure what they say."""

import numpy as np
import pytest

from bench.refine_schedules import DENOISE, OCTAVES, PHOTOS, area, bands, masked, schedules


def test_each_octave_has_its_share_of_white_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    for number, band in enumerate(bands(noise)):
        assert float(band.var()) == pytest.approx(area(number), rel=0.25)
    assert sum(area(number) for number in range(OCTAVES)) == pytest.approx(1, abs=1e-3)


def test_a_wave_is_in_the_octave_of_its_period() -> None:
    wave = np.sin(2 * np.pi * np.arange(256) / 6)[None, :].repeat(256, 0).astype(np.float32)
    strengths = [float(band.var()) for band in bands(wave)]
    assert int(np.argmax(strengths)) == 1
    assert strengths[1] > 0.9 * float(wave.var())


def test_karras_masks_nothing_of_a_face_and_portrait_plus_its_two_finest_octaves() -> None:
    """By the measure over pixels, under which fine detail drowns first; features of 32 pixels stand in either."""
    starts = {(one.scheduler, one.denoise): one.first for one in schedules()}
    assert len(starts) == 3 * len(DENOISE)
    for photo, face in PHOTOS.values():
        octaves = masked(photo(), face)
        assert starts["karras", 0.4] < min(octaves[0].pixels[0], octaves[0].latent[0])
        assert starts["beta", 0.2] > max(octaves[0].pixels[0], octaves[1].pixels[0])
        assert starts["beta", 0.2] < min(one[1] for octave in octaves[4:] for one in (octave.pixels, octave.latent))
