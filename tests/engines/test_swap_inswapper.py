"""inswapper gives insightface's own pixels, and what facefusion does otherwise is done as there."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insightface.model_zoo import get_model
from numpy.typing import NDArray

from services.swap.swapping.align import TEMPLATE, Alignment, Points, cropped, matrix_of, nose_outside_eyes
from services.swap.swapping.boost import joined, parted
from services.swap.swapping.networks import Networks
from services.swap.swapping.swap import swap, swapped_crop
from services.swap.swapping.swapper import Swapper, open_swapper
from shared.contracts.errors import Permanent
from shared.vision.codec import Image
from shared.vision.networks import tiny_swapper
from shared.vision.networks.insight import ANTELOPEV2, Insight, InsightFace, open_app
from shared.vision.networks.tiny_swapper import KEPT
from tests.engines.swap_models import SIX, params, people
from tests.photos import astronaut

ALIGNMENTS: tuple[Alignment, ...] = ("insightface", "facefusion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_swapper.write(folder)
    tiny_swapper.write_pack(folder / "antelopev2", (*SIX, (0.01, 0.9, 0.15)), ANTELOPEV2)
    tiny_swapper.write_hyperswap(folder / "hyperswap.onnx")
    return folder


@pytest.fixture(scope="module")
def insight(folder: Path) -> Insight:
    return Insight(open_app(folder / "antelopev2", "cpu", ANTELOPEV2))


@pytest.fixture(scope="module")
def swapper(folder: Path) -> Swapper:
    return open_swapper("inswapper_128", folder / tiny_swapper.SWAPPER, "cpu")


@pytest.fixture(scope="module")
def published(folder: Path) -> Iterator[Any]:
    """The INSwapper of insightface."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)
        yield get_model(str(folder / tiny_swapper.SWAPPER), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def faces(insight: Insight) -> tuple[InsightFace, ...]:
    return insight.find(people())


def as_published(face: InsightFace) -> Any:
    """A face as insightface has it."""
    normed = face.embedding / np.linalg.norm(face.embedding)
    return SimpleNamespace(kps=face.points.astype(np.float32), normed_embedding=normed)


def bgr(image: Image) -> Image:
    return np.ascontiguousarray(image[:, :, ::-1])


def only(swapper: Swapper) -> Networks:
    return Networks(swapper, None, None, None)


def test_the_photo_shows_seven_faces_one_of_them_beyond_its_edge(faces: tuple[InsightFace, ...]) -> None:
    assert len(faces) == 7
    assert min(face.box[0] for face in faces) < 0


@pytest.mark.parametrize("which", range(7))
def test_a_swapped_picture_is_insightface_s_own_pixel_for_pixel(
    which: int, faces: tuple[InsightFace, ...], swapper: Swapper, published: Any, insight: Insight
) -> None:
    """Paste back on: each face of a real photo, with the synthetic antelopev2's points, and one at the border."""
    (source,) = insight.find(astronaut())[:1]
    target, image = faces[which], people()
    expected = published.get(bgr(image), as_published(target), as_published(source), paste_back=True)
    latent = swapper.latent(source.embedding, "insightface")
    result = swap(image, target, latent, only(swapper), params())
    assert not isinstance(result, str)
    assert np.array_equal(bgr(result), expected)
    assert not np.array_equal(result, image)


@pytest.mark.parametrize("which", range(7))
def test_a_swapped_crop_is_insightface_s_own_pixel_for_pixel(
    which: int, faces: tuple[InsightFace, ...], swapper: Swapper, published: Any, insight: Insight
) -> None:
    """Paste back off: the crop, and the matrix that it was cut with."""
    source, target, image = insight.find(astronaut())[0], faces[which], people()
    expected, expected_matrix = published.get(bgr(image), as_published(target), as_published(source), paste_back=False)
    matrix = matrix_of(target.points, 128, "insightface")
    assert matrix is not None
    crop = cropped(image, matrix, 128, "insightface")
    result = swapped_crop(swapper, crop, swapper.latent(source.embedding, "insightface"))
    assert np.array_equal(matrix, expected_matrix)
    assert np.array_equal(bgr(result), expected)


def test_facefusion_s_alignment_is_ransac_on_its_own_template(faces: tuple[InsightFace, ...]) -> None:
    """It agrees with least squares to a tenth of a pixel, and lets a point that is far off count for nothing."""
    points = faces[0].points
    off = points + np.array([(0, 0), (0, 0), (0, 0), (60, 80), (0, 0)])
    for given_ in (points, off):
        expected: Any = cv2.estimateAffinePartial2D(
            given_.astype(np.float32), TEMPLATE * 512, method=cv2.RANSAC, ransacReprojThreshold=100
        )[0]
        assert np.array_equal(np.asarray(matrix_of(given_, 512, "facefusion")), expected)

    def least_off(alignment: Alignment, seen: Points) -> float:
        """How far the face's true points then lie from the template, in pixels."""
        matrix = matrix_of(seen, 512, alignment)
        assert matrix is not None
        return float(np.linalg.norm(points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE * 512, axis=1).mean())

    assert least_off("facefusion", points) == pytest.approx(least_off("insightface", points), abs=0.1)
    assert least_off("facefusion", off) < least_off("insightface", off) - 20


def test_both_templates_are_arcface_s() -> None:
    """For 112 pixels, 8 to the right and none down at 128."""
    arcface = np.array(
        [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    )
    assert (arcface + np.array((8, 0))) / 128 == pytest.approx(TEMPLATE, abs=1e-8)


def test_facefusion_does_not_normalise_what_comes_out_of_the_matrix(folder: Path) -> None:
    """Seen with a matrix that is no turn: it then stretches the source."""
    session = open_swapper("x", folder / tiny_swapper.SWAPPER, "cpu")
    random = np.random.default_rng(0)
    stretch = random.standard_normal((512, 512)).astype(np.float32)
    swapper = Swapper("x", session.kind, session.session, "target", "source", 1, stretch)
    raw = random.standard_normal(512).astype(np.float32) * 3
    fused, inside = swapper.latent(raw, "facefusion"), swapper.latent(raw, "insightface")
    assert fused == pytest.approx((raw @ stretch / np.linalg.norm(raw))[None], rel=1e-4, abs=1e-4)
    assert np.linalg.norm(fused) > 10
    assert np.linalg.norm(inside) == pytest.approx(1.0, abs=1e-5)
    assert inside == pytest.approx(fused / np.linalg.norm(fused), abs=1e-4)


def test_facefusion_s_crop_repeats_the_picture_s_edge(faces: tuple[InsightFace, ...]) -> None:
    edge = min(faces, key=lambda face: face.box[0])
    white = np.full_like(people(), 255)
    crops = []
    for alignment in ALIGNMENTS:
        matrix = matrix_of(edge.points, 128, alignment)
        assert matrix is not None
        crops.append(cropped(white, matrix, 128, alignment))
    assert crops[0].min() == 0
    assert crops[1].min() == 255


def square(side_px: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 1000))
def test_parts_put_together_are_the_crop(times: int, seed: int) -> None:
    crop = square(16 * times, seed)
    parts = parted(crop, 16)
    assert len(parts) == times**2
    assert np.array_equal(joined(parts), crop)


def test_a_part_takes_every_nth_pixel_of_every_nth_row() -> None:
    """As facefusion: the first row of parts first."""
    crop = square(512)
    parts = parted(crop, 128)
    assert np.array_equal(parts[1], crop[0::4, 1::4])
    assert np.array_equal(parts[4], crop[1::4, 0::4])


@pytest.mark.parametrize("side_px", [256, 512, 1024])
def test_a_boosted_face_keeps_the_detail_of_its_size(side_px: int, swapper: Swapper) -> None:
    """The tiny network mixes each pixel with a colour, which part by part is what it would do to the whole."""
    crop = square(side_px)
    latent = swapper.latent(np.linspace(-1, 1, 512, dtype=np.float32), "insightface")
    swapped = swapped_crop(swapper, crop, latent).astype(np.float64)
    added = swapped - KEPT * crop
    assert np.abs(added - added.mean(axis=(0, 1))).max() <= 1.0


def test_a_network_that_takes_many_faces_at_once_gets_them_at_once(folder: Path) -> None:
    """And gives what it gives for each alone."""
    many = open_swapper("hyperswap", folder / "hyperswap.onnx", "cpu")
    tiny_swapper.write_hyperswap(folder / "single.onnx", batch=1)
    single = open_swapper("single", folder / "single.onnx", "cpu")
    assert many.batch is None
    assert single.batch == 1
    latent = many.latent(np.ones(512, np.float32), "insightface")
    crop = square(512)
    assert np.array_equal(swapped_crop(many, crop, latent), swapped_crop(single, crop, latent))


def test_a_network_that_takes_one_source_at_once_gets_one_face_at_once(folder: Path) -> None:
    """Though its file leaves the number of faces open."""

    def opened(*_: Any) -> Any:
        taken = [
            SimpleNamespace(name="target", shape=["N", 3, 256, 256]),
            SimpleNamespace(name="source", shape=[1, 512]),
        ]
        return SimpleNamespace(get_inputs=lambda: taken, get_outputs=lambda: [None, None])

    assert open_swapper("hyperswap", folder / "hyperswap.onnx", "cpu", opened).batch == 1


def test_a_swapper_of_256_pixels_is_told_levels_from_minus_one_to_one(folder: Path) -> None:
    """As facefusion runs hyperswap: its result comes back the same way, and its source is of unit length."""
    swapper = open_swapper("hyperswap", folder / "hyperswap.onnx", "cpu")
    raw = np.linspace(-3, 1, 512, dtype=np.float32)
    latent = swapper.latent(raw, "facefusion")
    assert latent == pytest.approx((raw / np.linalg.norm(raw))[None], abs=1e-6)
    crop = square(256)
    given_, told = run_by_hand(swapper, crop, latent)
    assert given_.min() == pytest.approx(-1.0)
    assert given_.max() == pytest.approx(1.0)
    expected = np.clip(255 * (told[0].transpose(1, 2, 0) * 0.5 + 0.5), 0, 255).astype(np.uint8)
    assert np.array_equal(swapper.swap([crop], latent)[0], expected)


def run_by_hand(
    swapper: Swapper, crop: Image, latent: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    blob = ((crop.astype(np.float32) * np.float32(1 / 255) - 0.5) / 0.5).transpose(2, 0, 1)[None]
    return blob, swapper.session.run(None, {"target": blob, "source": latent})[0]


class Broken:
    """A session whose network gives no numbers."""

    def __init__(self, session: Any) -> None:
        self.get_inputs = session.get_inputs
        self.get_outputs = session.get_outputs

    def run(self, _: None, given: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [np.full_like(given["target"], np.nan)]


def test_a_network_that_gives_no_numbers_is_an_error_and_no_black_face(swapper: Swapper) -> None:
    broken = Swapper("inswapper_128", swapper.kind, Broken(swapper.session), "target", "source", 1, swapper.matrix)
    with pytest.raises(Permanent, match="inswapper_128 gave pixels that are no numbers"):
        broken.swap([square(128)], np.ones((1, 512), np.float32))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Such as one of 256 pixels without a mask beside its picture: simswap's, whose source is converted first."""
    tiny_swapper.write_occluder(tmp_path / "xseg.onnx")
    with pytest.raises(Permanent, match="no swapper of a known kind"):
        open_swapper("xseg", tmp_path / "xseg.onnx", "cpu")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(Permanent, match="no model that onnxruntime can load"):
        open_swapper("damaged", tmp_path / "damaged.onnx", "cpu")


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_points_that_span_no_face_give_no_matrix(alignment: Alignment) -> None:
    assert matrix_of(np.full((5, 2), 7.0), 128, alignment) is None
    assert matrix_of(np.full((5, 2), np.nan), 128, alignment) is None


def test_a_profile_is_told_by_its_nose() -> None:
    points: Points = TEMPLATE * 128.0
    assert not nose_outside_eyes(points)
    points[2, 0] = points[0, 0] - 5
    assert nose_outside_eyes(points)


def test_the_picture_s_own_bytes_stand_outside_the_mask(
    swapper: Swapper, faces: tuple[InsightFace, ...], insight: Insight
) -> None:
    image = people()
    latent = swapper.latent(insight.find(astronaut())[0].embedding, "insightface")
    result = swap(image, faces[0], latent, only(swapper), params())
    assert not isinstance(result, str)
    x, y, width, height = (round(value) for value in faces[0].box)
    changed = (result != image).any(axis=2)
    changed[max(y - height, 0) : y + 2 * height, max(x - width, 0) : x + 2 * width] = False
    assert not changed.any()
