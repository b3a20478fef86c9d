"""Hands are found where they are, and only there."""

import cv2
import numpy as np
import pytest

from shared.vision.hands import HandFinder
from tests.pictures import drawn_hand


@pytest.fixture(scope="module")
def finder() -> HandFinder:
    return HandFinder()


def test_a_hand_is_found_where_it_was_drawn(finder: HandFinder) -> None:
    (hand,) = finder.find(drawn_hand())
    assert hand.landmarks.shape == (21, 2)
    palm = hand.landmarks[[0, 5, 9, 13, 17]].mean(axis=0)
    assert palm == pytest.approx((256, 300), abs=40)
    assert 80 < hand.palm_px < 220


def test_an_empty_wall_shows_no_hand(finder: HandFinder) -> None:
    assert finder.find(np.full((512, 512, 3), 160, np.uint8)) == ()


def test_landmarks_are_pixels_of_the_picture_given_however_large(finder: HandFinder) -> None:
    small = drawn_hand()
    large = np.asarray(cv2.resize(small, (2048, 2048), interpolation=cv2.INTER_CUBIC), np.uint8)
    (near,), (far,) = finder.find(small), finder.find(large)
    assert np.abs(far.landmarks / 4 - near.landmarks).max() < 12


def test_two_looks_at_one_picture_see_the_same(finder: HandFinder) -> None:
    first = finder.find(drawn_hand())
    finder.find(np.ascontiguousarray(drawn_hand()[:, ::-1]))
    second = finder.find(drawn_hand())
    assert np.array_equal(first[0].landmarks, second[0].landmarks)


def test_the_weights_are_named_by_their_digests(finder: HandFinder) -> None:
    assert set(finder.models) == {"palm_detection_full.tflite", "hand_landmark_full.tflite"}
    assert all(len(digest) == 64 for digest in finder.models.values())
