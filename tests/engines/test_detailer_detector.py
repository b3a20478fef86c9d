"""A detector of the interface of YOLOv8's ONNX files that finds what it is told to, and that it is read as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.swap.detailer.engine import Detailer
from services.swap.stage import FluxHandsParams
from shared.flux.studio import studio_of
from shared.models.residency import Budget, Residency

ANCHORS = 64


def write_detector(folder: Path, boxes: Sequence[tuple[float, float, float, float]], width: int, height: int) -> None:
    """A folder with one ONNX file that finds these boxes (left, top, right, bottom) in pictures of that size, in order.

    Its input has that very size, so that nothing is letterboxed.
    """
    folder.mkdir(exist_ok=True)
    told = np.zeros((1, 5, ANCHORS), np.float32)
    for number, (left, top, right, bottom) in enumerate(boxes):
        told[0, :, number] = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0.95 - 0.01 * number)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
            helper.make_node("Mul", ["brightest", "nothing"], ["zero"]),
            helper.make_node("Add", ["told", "zero"], ["output0"]),
        ],
        "finder",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, ANCHORS])],
        [numpy_helper.from_array(told, "told"), numpy_helper.from_array(np.float32(0), "nothing")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, str(folder / "finder.onnx"))


def test_it_finds_the_boxes_that_it_was_told_best_first(tmp_path: Path) -> None:
    write_detector(tmp_path / "finder", [(10, 20, 40, 60), (50, 5, 90, 30)], 128, 96)
    detailer = Detailer(studio_of(tmp_path, "cpu", Residency(Budget(10_000_000, 10_000_000))))
    found = detailer.found(np.zeros((96, 128, 3), np.uint8), FluxHandsParams(detector="finder"))
    assert [tuple(round(edge) for edge in one.box) for one in found] == [(10, 20, 30, 40), (50, 5, 40, 25)]
    assert [round(one.score, 2) for one in found] == [0.95, 0.94]
