"""Faces get their detail back, and nothing else changes."""

import cv2
import numpy as np
import pytest

from services.swap.landmarks import EYES, FACE_OVAL
from services.swap.portable_face_detail import PortableFaceDetail, restore_face
from services.swap.stage import FaceDetailParams
from shared.vision.blend import polygon_mask, to_lab
from shared.vision.codec import Image, encode_png
from shared.vision.embedding import FaceEncoder, distance
from shared.vision.faces import Face, FaceFinder
from shared.worker.operation import Work
from tests.photos import hopper
from tests.pictures import astronaut, difference, psnr

SIDE = 1024


@pytest.fixture(scope="module")
def engine() -> PortableFaceDetail:
    return PortableFaceDetail()


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture(scope="module")
def face(finder: FaceFinder) -> Face:
    return finder.find(astronaut(SIDE))[0]


def sharpness(image: Image, where: Image) -> float:
    """Mean absolute Laplacian of the grey picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[where > 0].mean())


def oval(face: Face) -> Image:
    return polygon_mask((SIDE, SIDE), face.mesh[list(FACE_OVAL)])


def eyes(face: Face) -> Image:
    left, right = (polygon_mask((SIDE, SIDE), face.mesh[list(ring)]) for ring in EYES)
    return left | right


def test_the_face_becomes_sharper_in_step_with_the_strength(face: Face) -> None:
    image = astronaut(SIDE)
    levels = [
        sharpness(restore_face(image, face, FaceDetailParams(strength=strength)), oval(face))
        for strength in (0.0, 0.3, 0.6, 1.0)
    ]
    assert levels == sorted(levels)
    assert levels[-1] > 1.1 * levels[0]


def test_without_strength_the_picture_is_the_same(face: Face) -> None:
    image = astronaut(SIDE)
    assert difference(restore_face(image, face, FaceDetailParams(strength=0.0)), image) < 1e-3


def test_eyes_gain_more_than_skin(face: Face) -> None:
    image = astronaut(SIDE)
    plain = restore_face(image, face, FaceDetailParams(features=0.0))
    keen = restore_face(image, face, FaceDetailParams(features=2.0))
    assert sharpness(keen, eyes(face)) > sharpness(plain, eyes(face))
    cheek = np.zeros((SIDE, SIDE), np.uint8)
    x, y = face.mesh[50].astype(int)
    cheek[y - 8 : y + 8, x - 8 : x + 8] = 1
    assert sharpness(keen, cheek) == pytest.approx(sharpness(plain, cheek), rel=0.02)


def test_nothing_outside_the_face_changes_and_the_change_fades_in(face: Face) -> None:
    image = astronaut(SIDE)
    change = np.abs(restore_face(image, face, FaceDetailParams(strength=1.0)).astype(np.float64) - image).mean(axis=2)
    depth = cv2.distanceTransform(oval(face), cv2.DIST_L2, 5)
    assert change[depth == 0].max() == 0
    assert change[(depth > 0) & (depth < 3)].mean() < 0.1 * change[depth > 20].mean()


def test_skin_keeps_its_tone_and_no_edge_overshoots(face: Face) -> None:
    image = astronaut(SIDE)
    before, after = to_lab(image), to_lab(restore_face(image, face, FaceDetailParams(strength=1.0)))
    inside = oval(face) > 0
    assert np.median(after[inside], axis=0) == pytest.approx(np.median(before[inside], axis=0), abs=0.5)
    window = np.ones((7, 7), np.uint8)
    light = before[..., 0]
    assert (after[..., 0] <= cv2.dilate(light, window) + 0.6).all()
    assert (after[..., 0] >= cv2.erode(light, window) - 0.6).all()


def test_the_person_stays_the_person(finder: FaceFinder, face: Face) -> None:
    encoder = FaceEncoder()
    image = astronaut(SIDE)
    result = restore_face(image, face, FaceDetailParams(strength=1.0))
    assert psnr(result, image) > 30
    assert distance(encoder.encode(image, face), encoder.encode(result, finder.find(result)[0])) < 0.15


def test_the_engine_restores_the_largest_faces_and_repeats_itself(engine: PortableFaceDetail) -> None:
    pair = np.zeros((600, 1024, 3), np.uint8)
    pair[:, :512] = hopper()
    pair[:512, 512:] = astronaut()
    data = encode_png(pair)
    both = engine.run(Work(FaceDetailParams(), {"image": (data,)}, seed=0))
    again = engine.run(Work(FaceDetailParams(), {"image": (data,)}, seed=0))
    one = engine.run(Work(FaceDetailParams(max_faces=1), {"image": (data,)}, seed=0))
    assert (both.facts["faces"], one.facts["faces"]) == (2, 1)
    assert both.outputs["image"].data == again.outputs["image"].data != one.outputs["image"].data


def test_a_picture_without_a_face_passes_byte_for_byte_and_says_so(engine: PortableFaceDetail) -> None:
    data = encode_png(np.full((512, 512, 3), 160, np.uint8))
    outcome = engine.run(Work(FaceDetailParams(), {"image": (data,)}, seed=0))
    assert outcome.outputs["image"].data == data
    assert outcome.facts["faces"] == 0
