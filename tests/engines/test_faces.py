"""Finding faces in real photos."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.vision.align import aligned_crop
from shared.vision.boxes import centre
from shared.vision.codec import Image
from shared.vision.faces import Face, FaceFinder
from tests.photos import astronaut, blurred, cameraman, coffee, hopper, inset, mirrored, scaled, side_by_side, turned
from tests.portable_engines import finder


def one(image: Image) -> Face:
    """The only face of a picture."""
    (face,) = finder().find(image)
    return face


def same(a: tuple[Face, ...], b: tuple[Face, ...]) -> bool:
    """Whether two results are equal to the last bit."""
    return len(a) == len(b) and all(
        x.box == y.box
        and x.score == y.score
        and (x.yaw, x.pitch, x.roll) == (y.yaw, y.pitch, y.roll)
        and np.array_equal(x.mesh, y.mesh)
        and np.array_equal(x.mesh_depth, y.mesh_depth)
        for x, y in zip(a, b, strict=True)
    )


def test_a_face_is_where_it_is_seen() -> None:
    """Box, eyes and mesh agree with where anyone sees the astronaut's face."""
    face = one(astronaut())
    assert face.box == pytest.approx((180, 71, 93, 107), abs=5)
    assert face.eyes == pytest.approx(np.array([(205, 102), (247, 105)]), abs=4)
    assert face.mesh.shape == (478, 2)
    assert face.mesh_depth.shape == (478,)
    assert face.score > 0.9


@pytest.mark.parametrize("factor", [1.0, 3.0, 8.0])
def test_a_face_is_found_at_any_resolution(factor: float) -> None:
    """From 512 to 4096 pixels, the box scales with the picture."""
    face = one(scaled(astronaut(), factor))
    assert np.array(face.box) / factor == pytest.approx(np.array((180, 71, 93, 107)), abs=6)


@pytest.mark.parametrize("share", [0.04, 0.08, 0.7])
def test_small_and_large_faces_are_found(share: float) -> None:
    """A face of 4 % of the width is found as well as one of 70 %."""
    if share > 0.5:
        assert one(scaled(astronaut()[70:200, 160:290], 4.0)).box[2] / 520 == pytest.approx(share, rel=0.1)
        return
    portrait = scaled(astronaut(), share * 1024 / 93)
    face = one(inset(np.full((1024, 1024, 3), 128, np.uint8), portrait, 300, 300))
    assert face.box[2] / 1024 == pytest.approx(share, rel=0.15)


def test_several_faces_come_largest_first() -> None:
    faces = finder().find(side_by_side(astronaut(), hopper()))
    assert [round(face.box[2] / 10) for face in faces] == [19, 9]
    assert centre(faces[0].box)[0] > centre(faces[1].box)[0]


def test_a_crowd_is_counted() -> None:
    """Eight small faces in two rows: each is found, and found once."""
    row = side_by_side(*[scaled(image, 0.5) for image in (astronaut(), hopper(), mirrored(astronaut()), astronaut())])
    assert len(finder().find(np.vstack([row, row]))) == 8


@pytest.mark.parametrize("image", [coffee(), np.zeros((512, 512, 3), np.uint8), np.full((600, 800, 3), 255, np.uint8)])
def test_where_nobody_is_nobody_is_found(image: Image) -> None:
    assert finder().find(image) == ()


def test_a_blurred_face_is_still_a_face() -> None:
    """So that a blurred photo is refused for its blur, not for showing nobody."""
    assert one(blurred(astronaut(), 5.0)).box == pytest.approx((180, 71, 93, 107), abs=10)


@pytest.mark.parametrize("degrees", [-45.0, -20.0, 10.0, 30.0, 60.0])
def test_roll_follows_the_picture(degrees: float) -> None:
    """Turning the picture clockwise raises the roll by as many degrees."""
    assert one(turned(astronaut(), degrees)).roll - one(astronaut()).roll == pytest.approx(degrees, abs=4)


def test_yaw_is_positive_towards_the_pictures_right() -> None:
    """The cameraman looks to the right; in the mirror, to the left. The astronaut looks into the camera."""
    assert 35 < one(cameraman()).yaw < 65
    assert -65 < one(mirrored(cameraman())).yaw < -35
    assert abs(one(astronaut()).yaw) < 5


def test_what_was_seen_before_changes_nothing() -> None:
    """The same picture gives the same faces to the last bit, whatever came before, and from another instance."""
    first = finder().find(astronaut())
    finder().find(coffee())
    finder().find(side_by_side(hopper(), cameraman()))
    assert same(finder().find(astronaut()), first)
    fresh = FaceFinder()
    assert same(fresh.find(astronaut()), first)
    assert same(fresh.find(astronaut()), first)


def test_instances_work_side_by_side() -> None:
    """Two finders in two threads, each with its own pictures, see what one alone sees."""
    alone = [finder().find(image) for image in (astronaut(), hopper())]
    finders = (FaceFinder(), FaceFinder())

    def work(index: int) -> list[tuple[Face, ...]]:
        return [finders[index].find((astronaut(), hopper())[index]) for _ in range(5)]

    with ThreadPoolExecutor(2) as threads:
        for index, results in enumerate(threads.map(work, (0, 1))):
            assert all(same(found, alone[index]) for found in results)


def test_weights_are_named_by_their_digests() -> None:
    assert set(finder().models) == {
        "face_detection_short_range.tflite",
        "face_detection_full_range_sparse.tflite",
        "face_landmark_with_attention.tflite",
    }
    assert all(len(digest) == 64 for digest in finder().models.values())


def test_start_up_chatter_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Building a finder and finding the first face writes nothing to standard error."""
    FaceFinder().find(astronaut())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("degrees", [0.0, 30.0, -40.0])
def test_an_aligned_face_is_upright(degrees: float) -> None:
    """However the head is inclined, the crop has level eyes at the same place."""
    image = turned(astronaut(), degrees)
    face = one(aligned_crop(image, one(image)))
    assert abs(face.roll) < 3
    assert face.eyes == pytest.approx(np.array([(187, 236), (313, 236)]), abs=12)


def test_a_further_finder_costs_no_unpacking_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded pipeline has four of them, and dlib takes half a second to unpack its detector."""
    image = side_by_side(astronaut(), hopper())
    found = finder().find(image)
    monkeypatch.delattr("dlib.get_frontal_face_detector")
    assert len(found) == 2
    assert same(FaceFinder().find(image), found)
