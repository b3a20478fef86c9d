"""YuNet by OpenCV and recognisers by onnxruntime, on small files of the published interfaces."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skimage.transform import SimilarityTransform

from shared.contracts.errors import Permanent
from shared.vision.codec import Image
from shared.vision.networks import tiny_yunet
from shared.vision.networks.arcface import TEMPLATE, Recogniser, recognised_crop, similarity, upright
from shared.vision.networks.tiny_faces import write_recogniser
from shared.vision.networks.yunet import SIZES_PX, Yunet
from tests.engines.synthetic_antelope import ASTRONAUT_POINTS
from tests.photos import astronaut, hopper, scaled, turned

POINTS = np.array(ASTRONAUT_POINTS)


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> Yunet:
    path = tmp_path_factory.mktemp("yunet") / "yunet.onnx"
    tiny_yunet.write(path)
    return Yunet(path)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    path = tmp_path_factory.mktemp("recogniser") / "recogniser.onnx"
    write_recogniser(path)
    return Recogniser(path, "cpu")


@pytest.mark.parametrize(
    "photo",
    [astronaut(), hopper(), astronaut()[:, 100:300], astronaut()[200:233], scaled(astronaut(), 4.0)],
    ids=["square", "upright", "narrow", "a strip", "large"],
)
def test_a_face_is_found_once_and_in_the_pixels_of_the_picture(yunet: Yunet, photo: Image) -> None:
    """Though it is looked for at two sizes, both smaller than a large picture, and with padding about it."""
    (face,) = yunet.find(photo)
    height, width = photo.shape[:2]
    left, top, wide, high = face.box
    assert (left + wide / 2, top + high / 2) == pytest.approx((width / 2, height / 2), abs=0.01 * max(width, height))
    assert wide == pytest.approx(tiny_yunet.FACE_SHARE * min(width, height), rel=0.03)
    assert high == pytest.approx(tiny_yunet.HIGH * wide, rel=0.03)
    assert face.points.mean(axis=0) == pytest.approx((width / 2, height / 2), abs=0.01 * max(width, height))
    assert face.points[0, 0] < face.points[1, 0], "the picture's left eye comes first"
    assert face.score > 0.9


def test_opencv_decodes_what_the_published_names_and_layouts_say(tmp_path: Path) -> None:
    """Random outputs at all strides, decoded by hand as face_detect.cpp does, against FaceDetectorYN."""
    path = tmp_path / "random.onnx"
    side = 96
    told = _write_random(path, side)
    found = cv2.FaceDetectorYN.create(str(path), "", (side, side), 0.5, 1.0, 5000).detect(
        np.zeros((side, side, 3), np.uint8)
    )[1]
    expected = _decoded(told, side, 0.5)
    assert len(expected) > 10
    order = np.argsort(-expected[:, 14], kind="stable")
    assert np.asarray(found) == pytest.approx(expected[order], rel=1e-4, abs=1e-3)


def test_nothing_is_found_where_nothing_is(yunet: Yunet) -> None:
    for shape in ((512, 512, 3), (1, 1, 3), (1, 3000, 3)):
        assert yunet.find(np.zeros(shape, np.uint8)) == ()


def test_a_face_smaller_than_a_pixel_is_none(yunet: Yunet) -> None:
    assert yunet.find(np.full((1, 1, 3), 200, np.uint8)) == ()


def test_less_sure_faces_are_left_out_where_more_is_asked(yunet: Yunet) -> None:
    assert len(yunet.find(astronaut(), min_score=0.98)) == 1
    assert yunet.find(astronaut(), min_score=0.995) == ()
    assert len(yunet.find(astronaut())) == 1, "and the bound is of one search"


def test_a_file_that_is_no_yunet_is_named(tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.onnx", tmp_path / "other.onnx"
    broken.write_bytes(b"not a model")
    write_recogniser(other)
    with pytest.raises(Permanent, match="OpenCV cannot read it"):
        Yunet(broken)
    with pytest.raises(Permanent, match=r"other\.onnx cannot be used to find faces"):
        Yunet(other).find(astronaut())


@pytest.mark.parametrize("kind", ["cls", "obj", "bbox", "kps"])
def test_what_is_no_number_is_an_error_and_not_a_picture_without_a_face(tmp_path: Path, kind: str) -> None:
    """Of scores that are none OpenCV would say that there is no face."""
    path = tmp_path / "nan.onnx"
    _write_random(path, 96, {kind: np.nan})
    with pytest.raises(Permanent, match="gives numbers that are none"):
        Yunet(path).find(np.zeros((96, 96, 3), np.uint8))


def test_the_similarity_is_the_least_squares_one() -> None:
    expected = SimilarityTransform.from_estimate(POINTS, TEMPLATE).params[:2]
    assert similarity(POINTS, TEMPLATE) == pytest.approx(expected, abs=1e-9)


def test_the_crop_is_insightfaces() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in insightface and what it imports
        from insightface.utils.face_align import norm_crop

        theirs = norm_crop(astronaut(), POINTS)
    assert np.abs(recognised_crop(astronaut(), POINTS).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("factor", [2.0, 4.0, 8.0])
def test_the_crop_of_a_large_face_is_that_of_the_small_one(factor: float) -> None:
    """Reduced without aliasing, and not shifted by parts of a pixel."""
    large = recognised_crop(scaled(astronaut(), factor), (POINTS + 0.5) * factor - 0.5)
    assert np.abs(large.astype(int) - recognised_crop(astronaut(), POINTS)).mean() < 1.5


def test_a_face_is_described_by_a_direction(recogniser: Recogniser) -> None:
    """Of unit length; alike for the same face turned, another for another face."""
    one = recogniser.describe(astronaut(), POINTS)
    centre = np.array([255.5, 255.5])
    angle = np.radians(15.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other = recogniser.describe(turned(astronaut(), 15.0), (POINTS - centre) @ rotation.T + centre)
    stranger = recogniser.describe(np.ascontiguousarray(astronaut()[::-1]), POINTS)
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)
    assert one @ other > 0.97
    assert one @ stranger < 0.6


@pytest.mark.parametrize("names", [("Sub_0", "Mul_1"), ("_minusscalar0", "_mulscalar0")])
def test_a_graph_that_normalises_by_itself_is_shown_levels_as_insightface_shows_them(
    tmp_path: Path, recogniser: Recogniser, names: tuple[str, str]
) -> None:
    """The same network with that before it describes a face as it does without."""
    path = tmp_path / "mxnet.onnx"
    write_recogniser(path)
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.input[:] = ["levels" if one == "input.1" else one for one in node.input]
    for name, value in (("middle", 127.5), ("share", 1 / 127.5)):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    graph.graph.node.insert(0, helper.make_node("Sub", ["input.1", "middle"], ["about"], name=names[0]))
    graph.graph.node.insert(1, helper.make_node("Mul", ["about", "share"], ["levels"], name=names[1]))
    onnx.save(graph, path)
    points = np.array(ASTRONAUT_POINTS)
    told = Recogniser(path, "cpu").describe(astronaut(), points)
    assert told == pytest.approx(recogniser.describe(astronaut(), points), abs=1e-5)
    theirs = ArcFaceONNX(str(path)).get_feat(cv2.cvtColor(recognised_crop(astronaut(), points), cv2.COLOR_RGB2BGR))[0]
    assert told == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-5)


def test_a_face_at_the_border_and_beyond_is_described_too(recogniser: Recogniser) -> None:
    for shift in (-230.0, 300.0, 5000.0):
        assert np.isfinite(recogniser.describe(astronaut(), POINTS + shift)).all()


def test_upright_faces_have_their_points_on_the_template() -> None:
    marked, points = astronaut(), TEMPLATE * 1.5 + np.array([150.0, 40.0])
    for x, y in np.rint(points).astype(int):
        cv2.circle(marked, (int(x), int(y)), 3, (0, 255, 0), -1)
    crop = upright(marked, points, TEMPLATE * 2.0, 224)
    for x, y in np.rint(TEMPLATE * 2).astype(int):
        red, green, _ = (int(value) for value in crop[y, x])
        assert green > red + 60


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    tiny_yunet.write(path)
    with pytest.raises(Permanent, match="3 x 112 x 112"):
        Recogniser(path, "cpu")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_description_without_direction_is_an_error(tmp_path: Path, value: float) -> None:
    path = tmp_path / "flat.onnx"
    face = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 112, 112])
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, 4])
    constant = onnx.numpy_helper.from_array(np.full((1, 4), value, np.float32), "constant")
    node = helper.make_node("Identity", ["constant"], ["vector"])
    _save(path, helper.make_graph([node], "flat", [face], [vector], [constant]))
    with pytest.raises(Permanent, match="no direction"):
        Recogniser(path, "cpu").describe(astronaut(), POINTS)


def test_the_sizes_cover_faces_of_any_size() -> None:
    """Of 10 to 300 pixels at each, as the network was trained."""
    large, small = SIZES_PX
    assert 10 * large / small < 300
    assert 300 * large / small > 0.9 * large


Told = dict[str, NDArray[np.float32]]


def _write_random(path: Path, side: int, added: Mapping[str, float] | None = None) -> Told:
    """YuNet's outputs as constants, drawn at random; to those of a kind something may be added."""
    drawn = np.random.default_rng(0)
    told: Told = {}
    for stride in tiny_yunet.STRIDES:
        cells = (side // stride) ** 2
        told[f"cls_{stride}"] = drawn.random((1, cells, 1), np.float32)
        told[f"obj_{stride}"] = drawn.random((1, cells, 1), np.float32)
        told[f"bbox_{stride}"] = drawn.standard_normal((1, cells, 4)).astype(np.float32) * 0.5
        told[f"kps_{stride}"] = drawn.standard_normal((1, cells, 10)).astype(np.float32)
    nodes = [helper.make_node("ReduceMax", ["input"], ["most"], axes=[1, 2, 3], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["most", "zero"], ["nothing"]))
    constants = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    outputs = []
    for name, drawn_ones in told.items():
        value = drawn_ones + np.float32((added or {}).get(name.split("_")[0], 0.0))
        constants.append(onnx.numpy_helper.from_array(value, f"{name}.told"))
        nodes.append(helper.make_node("Add", [f"{name}.told", "nothing"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape)))
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    _save(path, helper.make_graph(nodes, "random", [taken], outputs, constants))
    return told


def _decoded(told: Told, side: int, least: float) -> NDArray[np.float64]:
    """Rows of box, points and score, as OpenCV's face_detect.cpp makes them."""
    rows = []
    for stride in tiny_yunet.STRIDES:
        across = side // stride
        for cell in range(across * across):
            column, row = cell % across, cell // across
            score = float(np.sqrt(told[f"cls_{stride}"][0, cell, 0] * told[f"obj_{stride}"][0, cell, 0]))
            dx, dy, log_width, log_height = told[f"bbox_{stride}"][0, cell].astype(np.float64)
            width, height = np.exp(log_width) * stride, np.exp(log_height) * stride
            points = (told[f"kps_{stride}"][0, cell].reshape(5, 2) + np.array([column, row])) * stride
            left, top = (column + dx) * stride - width / 2, (row + dy) * stride - height / 2
            if score >= least:
                rows.append([left, top, width, height, *points.ravel(), score])
    return np.array(rows)


def _save(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
