"""Sharpening in strips is sharpening, and no strip shows."""

import cv2
import numpy as np
import pytest

from services.upscale.sharpen import unsharp
from shared.vision.codec import Image
from tests.pictures import astronaut, difference


def sharpened(image: Image, amount: float, sigma_px: float, strip_rows: int = 10_000) -> Image:
    copy = image.copy()
    unsharp(copy, amount, sigma_px, strip_rows)
    return copy


@pytest.mark.parametrize("strip_rows", [1, 3, 7, 64, 511])
@pytest.mark.parametrize("sigma_px", [0.45, 1.8])
def test_strips_of_any_height_equal_the_whole(strip_rows: int, sigma_px: float) -> None:
    image = astronaut()[:300]
    assert np.array_equal(sharpened(image, 0.5, sigma_px, strip_rows), sharpened(image, 0.5, sigma_px))


def test_the_whole_equals_the_definition_of_unsharp_masking() -> None:
    image = astronaut()
    blurred = cv2.GaussianBlur(image, (13, 13), 1.8).astype(np.float64)
    expected = np.clip(image + 0.5 * (image - blurred), 0, 255)
    assert np.abs(sharpened(image, 0.5, 1.8) - expected).max() <= 1


def test_more_changes_more_and_none_changes_nothing() -> None:
    image = astronaut()
    changes = [difference(sharpened(image, amount, 1.8), image) for amount in (0.0, 0.25, 0.5, 1.0)]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert len(set(changes)) == 4
