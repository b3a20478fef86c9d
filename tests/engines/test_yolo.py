"""Our letterboxing, decoding and suppression, on sessions that say what they are told and on the tiny model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.onnx import open_session
from shared.models.residency import Budget, Residency
from shared.vision.boxes import Box
from shared.vision.networks.letterbox import GREY, letterbox, place
from shared.vision.networks.tiny_yolo import write
from shared.vision.networks.yolo import YoloDetector, suppress, yolo_key, yolo_resident
from tests.photos import astronaut, scaled

SHAPES = [(640, 640), (512, 512), (300, 200), (200, 301), (37, 640), (1000, 333), (1, 3000), (3000, 1), (1, 1)]


class Value(NamedTuple):
    """What a session says of an input or an output."""

    name: str
    shape: list[int | str]
    type: str


class Session:
    """A session that gives the same output whatever it is shown, and keeps what it was shown."""

    def __init__(
        self,
        output: NDArray[np.float32],
        shape: Sequence[int | str] = (1, 3, 640, 640),
        kind: str = "tensor(float)",
        outputs: int = 1,
    ) -> None:
        self.output, self._input, self._outputs = output, Value("images", list(shape), kind), outputs
        self.shown: NDArray[np.float32] = np.zeros(0, np.float32)

    def get_inputs(self) -> list[Value]:
        return [self._input]

    def get_outputs(self) -> list[Value]:
        return [Value("output0", [1, 5, 8400], "tensor(float)")] * self._outputs

    def run(self, names: None, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        (self.shown,) = inputs.values()
        return [self.output]


def rows(*candidates: Sequence[float], anchors: int = 8400) -> NDArray[np.float32]:
    """[1, 4 + classes, anchors] of x, y, width, height and scores."""
    output = np.zeros((1, len(candidates[0]), anchors), np.float32)
    output[0, :, : len(candidates)] = np.array(candidates, np.float32).T
    return output


def detector(output: NDArray[np.float32]) -> YoloDetector:
    return YoloDetector(Session(output), "hands")


def picture(height: int = 640, width: int = 640) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_lies_in_the_middle_of_grey_and_its_corners_come_back(shape: tuple[int, int]) -> None:
    placement = place(shape, (640, 640))
    padded = letterbox(np.full((*shape, 3), 7, np.uint8), placement)
    assert padded.shape == (640, 640, 3)
    inside = np.argwhere((padded != GREY).all(axis=2))
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    assert abs(top - (640 - bottom)) <= 1
    assert abs(left - (640 - right)) <= 1
    corners = placement.undo(np.array([[left, top, right, bottom], [-50, -50, 700, 700]], np.float32))
    assert np.allclose(corners, [0, 0, shape[1], shape[0]], rtol=1e-6)


def test_an_input_of_any_size_becomes_the_smallest_rectangle_of_the_stride() -> None:
    session = Session(rows((1, 1, 1, 1, 0.0), anchors=2100), (1, 3, "height", "width"))
    for shape, wanted in (((512, 512), (640, 640)), ((300, 200), (640, 448)), ((200, 640), (224, 640))):
        YoloDetector(session, "hands").find(picture(*shape))
        assert session.shown.shape == (1, 3, *wanted)


def test_the_model_is_shown_red_first_from_0_to_1() -> None:
    session = Session(rows((1, 1, 1, 1, 0.0)))
    red = picture()
    red[..., 0] = 255
    YoloDetector(session, "hands").find(red)
    assert session.shown[0].reshape(3, -1).max(axis=1).tolist() == [1, 0, 0]
    assert session.shown.dtype == np.float32


def test_boxes_come_best_first_and_of_doubles_only_the_best() -> None:
    found = detector(
        rows((100, 100, 50, 50, 0.6), (102, 100, 50, 50, 0.9), (400, 400, 20, 40, 0.7), (10, 10, 5, 5, 0.5))
    ).find(picture())
    assert [round(one.score, 3) for one in found] == [0.9, 0.7]
    assert found[0].box == pytest.approx((77, 75, 50, 50))
    assert found[1].box == pytest.approx((390, 380, 20, 40))


def test_what_scores_just_the_threshold_is_not_told() -> None:
    assert not detector(rows((100, 100, 50, 50, 0.5))).find(picture(), min_score=0.5)


def test_boxes_of_two_classes_do_not_suppress_each_other() -> None:
    found = detector(rows((100, 100, 50, 50, 0.6, 0.1), (100, 100, 50, 50, 0.2, 0.9))).find(picture())
    assert [one.label for one in found] == [1, 0]
    assert found[0].box == found[1].box == pytest.approx((75, 75, 50, 50))


def test_at_most_300_are_told() -> None:
    many = [(x * 20 + 10, y * 20 + 10, 10, 10, 0.9) for x in range(32) for y in range(32)]
    assert len(detector(rows(*many)).find(picture())) == 300


def test_a_box_is_cut_off_at_the_picture_and_one_in_the_padding_is_none() -> None:
    found = detector(rows((320, 320, 2000, 2000, 0.9), (320, 20, 50, 30, 0.8))).find(picture(320, 640))
    assert [one.box for one in found] == [(0, 0, 640, 320)]


def test_an_end_to_end_model_is_taken_at_its_word() -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, :3] = [[10, 20, 30, 60, 0.6, 2], [10, 20, 30, 60, 0.9, 2], [1, 1, 2, 2, 0.1, 0]]
    found = detector(output).find(picture())
    assert [(round(one.score, 3), one.label, one.box) for one in found] == [
        (0.9, 2, (10, 20, 20, 40)),
        (0.6, 2, (10, 20, 20, 40)),
    ]


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 4])
def test_what_is_no_number_is_an_error_that_names_the_model(number: float, row: int) -> None:
    output = rows((100, 100, 50, 50, 0.9))
    output[0, row, 7] = number
    with pytest.raises(Permanent, match=r"^hands gave numbers that are not finite"):
        detector(output).find(picture())


@pytest.mark.parametrize("shape", [(1, 25200, 6), (1, 8400, 84), (1, 4, 8400), (2, 5, 8400), (1, 1000), (1, 3, 8, 8)])
def test_another_networks_output_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Permanent, match=r"^hands gives .*not .*\[1, 4 \+ classes, anchors\]"):
        detector(np.zeros(shape, np.float32)).find(picture())


@pytest.mark.parametrize(
    ("shape", "kind", "outputs", "said"),
    [
        ((1, 3, 640, 640), "tensor(float)", 2, "has 1 inputs and 2 outputs"),
        ((1, 3, 640, 640), "tensor(float16)", 1, r"takes tensor\(float16\)"),
        ((1, 3, 640, 640), "tensor(uint8)", 1, r"takes tensor\(uint8\)"),
        ((1, 1, 640, 640), "tensor(float)", 1, r"takes tensor\(float\) \[1, 1, 640, 640\]"),
        ((8, 3, 640, 640), "tensor(float)", 1, r"\[8, 3, 640, 640\]"),
        ((1, 512), "tensor(float)", 1, r"\[1, 512\]"),
    ],
)
def test_another_networks_input_is_refused_when_it_is_opened(
    shape: tuple[int, ...], kind: str, outputs: int, said: str
) -> None:
    with pytest.raises(Permanent, match=f"^hands .*{said}"):
        YoloDetector(Session(rows((1, 1, 1, 1, 0.0)), shape, kind, outputs), "hands")


BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(0, 20)] * 2, st.integers(1, 100))


@settings(deadline=None)
@given(st.lists(BOXES, max_size=30), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_suppression_keeps_no_two_that_overlap_and_drops_none_without_a_better_one(
    boxes: list[tuple[int, int, int, int, int]], iou: float
) -> None:
    """By its definition, box by box."""
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score in boxes], np.float32)
    kept = suppress(corners, scores, iou).tolist()
    assert [scores[one] for one in kept] == sorted((scores[one] for one in kept), reverse=True)
    wanted: list[int] = []
    for one in np.argsort(-scores, kind="stable").tolist():
        if all(not shared(corners[one], corners[other]) > np.float32(iou) for other in wanted):
            wanted.append(one)
    assert kept == wanted


def shared(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    """Intersection over union of two boxes; 0 where neither has an area."""
    width, height = (max(0.0, float(min(a[2 + i], b[2 + i]) - max(a[i], b[i]))) for i in (0, 1))
    areas = [float((one[2] - one[0]) * (one[3] - one[1])) for one in (a, b)]
    union = sum(areas) - width * height
    return np.float32(width * height) / np.float32(union or 1.0)


TWO = ((0.25, 0.5, 0.3, 0.4), (0.75, 0.4, 0.2, 0.6))


@pytest.mark.parametrize("shape", [(512, 512), (300, 200), (200, 301), (2000, 640), (90, 640)])
def test_the_tiny_model_finds_its_boxes_in_pictures_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    write(tmp_path / "tiny" / "tiny.onnx", TWO)
    tiny = YoloDetector(open_session(tmp_path / "tiny" / "tiny.onnx", "cpu"), "tiny")
    height, width = shape
    photo = np.asarray(scaled(astronaut(), 4.0)[:height, :width])
    found = tiny.find(photo)
    assert [round(one.score, 3) for one in found] == [0.99, 0.98]
    for one, (x, y, w, h) in zip(found, TWO, strict=True):
        wanted: Box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        assert one.box == pytest.approx(wanted, abs=0.01)
    assert (tmp_path / "tiny" / "tiny.onnx").stat().st_size < 20_000


def test_the_tiny_model_finds_nothing_where_there_is_only_padding(tmp_path: Path) -> None:
    write(tmp_path / "tiny.onnx")
    assert not YoloDetector(open_session(tmp_path / "tiny.onnx", "cpu"), "tiny").find(
        np.full((640, 640, 3), GREY, np.uint8)
    )


def test_a_residency_lends_the_detector(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    write(path)
    with Residency(Budget(10**9, 10**9)).use(yolo_key(path, "cpu"), lambda: yolo_resident(path, "cpu")) as slot:
        assert len(slot.it.find(astronaut())) == 1
