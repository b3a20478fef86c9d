"""Pose, sharpness and exposure from five key points, held against the portable engine's mesh on real photos."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.identity.five_points import HEAD, detail, head_pose, level
from shared.vision.align import aligned_crop
from shared.vision.codec import Image
from shared.vision.faces import Face
from shared.vision.measures import mean_level, sharpness
from shared.vision.networks.crop512 import TEMPLATE, crop512
from tests.photos import astronaut, blurred, cameraman, hopper, lit, scaled
from tests.portable_engines import finder

NOSE, MOUTH = 1, (61, 291)
PHOTOS = {
    "astronaut": astronaut(),
    "hopper": hopper(),
    "large": scaled(astronaut(), 4.0),
    "blurred": blurred(hopper(), 4.0),
    "dark": lit(astronaut(), 0.3),
}


@cache
def found(name: str) -> Face:
    return finder().find({**PHOTOS, "cameraman": cameraman()}[name])[0]


def five(face: Face) -> NDArray[np.float64]:
    return np.array([*face.eyes, *face.mesh[[NOSE, *MOUTH]]], np.float64)


def turned(yaw: float, pitch: float) -> NDArray[np.float64]:
    """The mean head, first nodding, then turned, in a picture."""
    y, x = np.radians((-yaw, pitch))
    nod = np.array([(1, 0, 0), (0, np.cos(x), np.sin(x)), (0, -np.sin(x), np.cos(x))])
    turn = np.array([(np.cos(y), 0, np.sin(y)), (0, 1, 0), (-np.sin(y), 0, np.cos(y))])
    return np.asarray(200.0 + 60.0 * (HEAD @ nod.T @ turn.T)[:, :2], np.float64)


@given(st.floats(-70.0, 70.0), st.floats(-50.0, 50.0))
def test_a_turned_head_is_measured_as_it_was_turned(yaw: float, pitch: float) -> None:
    """Exactly, of the mean head: to the picture's right and up are positive."""
    pose = head_pose(turned(yaw, 0.0))
    assert (pose.yaw, pose.pitch) == pytest.approx((yaw, 0.0), abs=1e-6)
    assert head_pose(turned(0.0, pitch)).pitch == pytest.approx(pitch, abs=1e-6)


def test_the_template_looks_into_the_camera() -> None:
    assert np.abs(head_pose(TEMPLATE)).max() < 1.0


@pytest.mark.parametrize("name", ["astronaut", "hopper", "cameraman"])
def test_the_yaw_is_the_mesh_s(name: str) -> None:
    """And the pitch within what faces differ by."""
    pose = head_pose(five(found(name)))
    assert pose.yaw == pytest.approx(found(name).yaw, abs=5.0)
    assert pose.roll == pytest.approx(found(name).roll, abs=3.0)
    assert pose.pitch == pytest.approx(found(name).pitch, abs=15.0)


@pytest.mark.parametrize("name", PHOTOS)
def test_sharpness_and_exposure_are_the_portable_engine_s(name: str) -> None:
    image: Image = PHOTOS[name]
    face = found(name)
    assert detail(image, five(face)) == pytest.approx(sharpness(aligned_crop(image, face, 128)), rel=0.15)
    assert level(crop512(image, five(face))) == pytest.approx(mean_level(image, face.mesh), abs=15.0)
