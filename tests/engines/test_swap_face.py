"""A face swap brings the subject's face, keeps the rest, and leaves no trace."""

import cv2
import numpy as np
import pytest

from services.swap.face_swap import mouths_differ, swap_face
from services.swap.landmarks import FACE_OVAL, MOUTH
from services.swap.portable_face import PortableFace
from services.swap.stage import FaceParams
from shared.contracts.errors import Permanent
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.blend import polygon_mask
from shared.vision.codec import Image, decode, encode_png
from shared.vision.embedding import FaceEncoder, distance
from shared.vision.faces import Face, FaceFinder
from shared.worker.operation import Outcome, Work
from tests.photos import hopper
from tests.pictures import astronaut, difference, psnr, rolled

NOSE = (226.0, 125.0)
"""Of the astronaut at 512."""


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture(scope="module")
def engine() -> PortableFace:
    return PortableFace()


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    return FaceEncoder()


def largest(finder: FaceFinder, image: Image) -> Face:
    return finder.find(image)[0]


def swapped(finder: FaceFinder, image: Image, photo: Image, **params: float) -> Image:
    face_params = FaceParams.model_validate(params)
    return swap_face(image, largest(finder, image), photo, largest(finder, photo), face_params)


def of_face(face: Face, image: Image) -> Image:
    x, y, width, height = (round(value) for value in face.box)
    return image[y : y + height, x : x + width]


def record(face: Face, photo: int = 0) -> bytes:
    left, right = face.eyes
    measure = FaceMeasure(
        photo=photo,
        box=face.box,
        eyes=((float(left[0]), float(left[1])), (float(right[0]), float(right[1]))),
        yaw=face.yaw,
        pitch=face.pitch,
        roll=face.roll,
        sharpness=100.0,
        exposure=120.0,
        quality=0.9,
        embedding=(0.0,) * 128,
    )
    return IdentityRecord(faces=(measure,), best=0, embedding=(0.0,) * 128, encoder="none").to_json()


def run(engine: PortableFace, image: bytes, photos: tuple[bytes, ...], identity: bytes, **params: object) -> Outcome:
    inputs = {"image": (image,), "photos": photos, "identity": (identity,)}
    return engine.run(Work(FaceParams.model_validate(params), inputs, seed=0))


def test_on_its_own_photo_a_swap_is_nearly_the_identity(finder: FaceFinder) -> None:
    photo = astronaut()
    result = swapped(finder, photo, photo)
    assert psnr(result, photo) > 50
    assert difference(result, photo) < 0.05


@pytest.mark.parametrize("side_px", [1024, 400])
def test_a_smaller_or_larger_photo_of_the_same_face_changes_little(finder: FaceFinder, side_px: int) -> None:
    image = astronaut(side_px)
    face = largest(finder, image)
    result = swapped(finder, image, astronaut())
    assert psnr(of_face(face, result), of_face(face, image)) > 27
    assert difference(result, image) < 0.3


@pytest.mark.parametrize("degrees", [-20.0, 20.0])
def test_a_rolled_head_is_put_upright(finder: FaceFinder, degrees: float) -> None:
    image = astronaut()
    face = largest(finder, image)
    result = swapped(finder, image, rolled(image, degrees, NOSE))
    assert psnr(of_face(face, result), of_face(face, image)) > 27


@pytest.mark.parametrize("degrees", [-20.0, 20.0])
def test_a_face_is_put_onto_a_rolled_head(finder: FaceFinder, degrees: float) -> None:
    image = rolled(astronaut(), degrees, NOSE)
    face = largest(finder, image)
    result = swapped(finder, image, astronaut())
    assert psnr(of_face(face, result), of_face(face, image)) > 27


@pytest.mark.parametrize("astronaut_takes", [False, True])
def test_another_persons_face_becomes_clearly_the_subjects(
    finder: FaceFinder, encoder: FaceEncoder, astronaut_takes: bool
) -> None:
    photo, image = (hopper(), astronaut(1024)) if astronaut_takes else (astronaut(), hopper())
    subject = encoder.encode(photo, largest(finder, photo))
    before = distance(subject, encoder.encode(image, largest(finder, image)))
    result = swapped(finder, image, photo)
    after = distance(subject, encoder.encode(result, largest(finder, result)))
    assert before > 0.6
    assert after < before - 0.15


def test_nothing_outside_the_face_changes(finder: FaceFinder) -> None:
    image = hopper()
    result = swapped(finder, image, astronaut())
    oval = polygon_mask((600, 512), largest(finder, image).mesh[list(FACE_OVAL)]) > 0
    assert np.array_equal(result[~oval], image[~oval])
    assert difference(result[oval], image[oval]) > 5


def test_the_change_fades_in_from_the_faces_outline(finder: FaceFinder) -> None:
    image = hopper()
    face = largest(finder, image)
    result = swapped(finder, image, astronaut())
    change = np.abs(result.astype(np.float64) - image).mean(axis=2)
    depth = cv2.distanceTransform(polygon_mask((600, 512), face.mesh[list(FACE_OVAL)]), cv2.DIST_L2, 5) / face.box[2]
    rim = change[(depth > 0) & (depth < 0.05)].mean()
    core = change[depth > 0.2].mean()
    assert rim < 0.15 * core


def test_skin_takes_the_light_and_colour_of_the_picture(finder: FaceFinder) -> None:
    photo = astronaut()
    image = np.asarray(np.clip(photo * np.array([0.85, 0.7, 0.6]), 0, 255), np.uint8)
    face = largest(finder, image)
    result = swapped(finder, image, photo)
    tone = np.median(of_face(face, image).reshape(-1, 3), axis=0)
    assert np.median(of_face(face, result).reshape(-1, 3), axis=0) == pytest.approx(tone, abs=4)


def test_less_strength_changes_less(finder: FaceFinder) -> None:
    image = hopper()
    changes = [difference(swapped(finder, image, astronaut(), strength=s), image) for s in (0.0, 0.5, 1.0)]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


def test_a_smile_keeps_its_teeth_when_the_subjects_mouth_is_shut(finder: FaceFinder) -> None:
    image, photo = astronaut(1024), hopper()
    face = largest(finder, image)
    assert mouths_differ(largest(finder, photo).mesh, face.mesh)
    assert not mouths_differ(face.mesh, face.mesh)
    mouth = polygon_mask((1024, 1024), face.mesh[list(MOUTH)]) > 0
    result = swapped(finder, image, photo)
    assert np.array_equal(result[mouth], image[mouth])


def test_a_face_cut_by_the_pictures_border_is_swapped_without_failing(finder: FaceFinder) -> None:
    photo = astronaut()
    cut = np.ascontiguousarray(photo[:, 200:])
    face = largest(finder, cut)
    result = swap_face(cut, face, photo, largest(finder, photo), FaceParams())
    assert result.shape == cut.shape


def test_the_engine_swaps_the_face_the_identity_names_every_time_alike(
    engine: PortableFace, finder: FaceFinder
) -> None:
    photo, image = astronaut(), encode_png(hopper())
    photos = (encode_png(hopper()), encode_png(photo))
    identity = record(largest(finder, photo), photo=1)
    first, second = run(engine, image, photos, identity), run(engine, image, photos, identity)
    assert np.array_equal(decode(first.outputs["image"].data), swapped(finder, hopper(), photo))
    assert first.outputs["image"].data == second.outputs["image"].data
    assert first.facts["photo"] == 1


def test_among_several_faces_the_one_in_the_identitys_box_is_taken(engine: PortableFace, finder: FaceFinder) -> None:
    photo = np.zeros((600, 1024, 3), np.uint8)
    photo[:, :512] = hopper()
    photo[:512, 512:] = astronaut()
    faces = finder.find(photo)
    smaller = min(faces, key=lambda face: face.box[2])
    outcome = run(engine, encode_png(astronaut()), (encode_png(photo),), record(smaller))
    assert len(faces) == 2
    assert difference(decode(outcome.outputs["image"].data), astronaut()) < 0.3


def test_a_picture_without_a_face_passes_byte_for_byte_and_says_so(engine: PortableFace, finder: FaceFinder) -> None:
    data = encode_png(np.full((512, 512, 3), 160, np.uint8))
    outcome = run(engine, data, (encode_png(astronaut()),), record(largest(finder, astronaut())))
    assert outcome.outputs["image"].data == data
    assert outcome.facts == {"faces": 0, "note": "No faces were found; the picture is unchanged."}


def test_a_required_face_that_is_missing_is_an_error(engine: PortableFace, finder: FaceFinder) -> None:
    data = encode_png(np.full((512, 512, 3), 160, np.uint8))
    with pytest.raises(Permanent, match="shows no face"):
        run(engine, data, (data,), record(largest(finder, astronaut())), require_face=True)


def test_an_identity_that_does_not_fit_the_photos_is_an_error(engine: PortableFace, finder: FaceFinder) -> None:
    image, wall = encode_png(astronaut()), encode_png(np.full((512, 512, 3), 160, np.uint8))
    with pytest.raises(Permanent, match="given 1 photos"):
        run(engine, image, (image,), record(largest(finder, astronaut()), photo=3))
    with pytest.raises(Permanent, match="no face where the identity says"):
        run(engine, image, (wall,), record(largest(finder, astronaut())))
