"""Files with the interface of antelopev2's, without its knowledge.

The detector fires where a photo is marked with a green square (`mark`), once for each mark, and says that a face lies
at a given way from there. The recogniser is a fixed random projection of the aligned face: alike faces give alike
vectors, and that is all it knows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.vision.codec import Image
from shared.vision.networks.antelope import DETECTOR, RECOGNISER
from shared.vision.networks.tiny_faces import write_recogniser
from tests.photos import astronaut

CELL = 32
"""Pixels of the detector's input that one of its coarsest cells covers."""

STRIDES = (8, 16, 32)

MARK = (0, 255, 0)
MARK_PX = 40
"""At 512 pixels: larger than a cell at 640, so that one cell lies wholly in it."""

ASTRONAUT_BOX = (180.0, 70.0, 273.0, 190.0)
"""Left, top, right, bottom."""

ASTRONAUT_POINTS = ((206.0, 113.0), (245.0, 111.0), (229.0, 136.0), (211.0, 153.0), (247.0, 152.0))
"""Eyes, nose, mouth corners of the astronaut, read off the photo."""

ASTRONAUT_MARK = (45, 45)
"""Where the mark belongs for the detector to find her: it covers the cell of (64, 64) at 640 pixels."""


def marked_astronaut() -> Image:
    """The astronaut as the synthetic detector finds her."""
    return mark(astronaut(), ASTRONAUT_MARK)


def mark(image: Image, corner: tuple[int, int]) -> Image:
    """The photo with a green square whose upper left corner is at (x, y)."""
    x, y = corner
    marked = image.copy()
    marked[y : y + MARK_PX, x : x + MARK_PX] = MARK
    return marked


def write_antelope(
    folder: Path,
    box: Sequence[float] = ASTRONAUT_BOX,
    points: Sequence[Sequence[float]] = ASTRONAUT_POINTS,
) -> None:
    """Write the two files. Box and points are those of a photo of 512 pixels marked at `ASTRONAUT_MARK`."""
    folder.mkdir(parents=True, exist_ok=True)
    anchor = 2 * CELL * 512 / 640
    cell = CELL * 512 / 640
    left, top, right, bottom = ((edge - anchor) / cell for edge in box)
    write_detector(folder / DETECTOR, (-left, -top, right, bottom), (np.array(points).ravel() - anchor) / cell)
    write_recogniser(folder / RECOGNISER)


def write_detector(path: Path, box: Sequence[float], points: NDArray[np.float64]) -> None:
    """SCRFD's interface: at three strides two anchors a cell; scores, distances to the box's edges, five points.

    Args:
        path: of the ONNX file.
        box: the distances from a mark's cell to the left, upper, right and lower edge, in cells.
        points: (10,) from a mark's cell to each point, x and y, in cells.
    """
    nodes, constants = [], []
    outputs: dict[str, list[onnx.ValueInfoProto]] = {"score": [], "bbox": [], "kps": []}
    for stride in STRIDES:
        pooled = f"pooled{stride}"
        nodes.append(
            helper.make_node("AveragePool", ["input.1"], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for kind, width, told in (("score", 1, None), ("bbox", 4, box), ("kps", 10, points)):
            name = f"{kind}{stride}"
            weights = np.zeros((2 * width, 3, 1, 1), np.float32)
            bias = np.full(2 * width, -30, np.float32) if told is None else np.tile(told, 2).astype(np.float32)
            if told is None and stride == CELL:
                weights[0, :, 0, 0], bias[0] = (-8, 8, -8), -16
            constants += [
                numpy_helper.from_array(weights, f"{name}.weight"),
                numpy_helper.from_array(bias, f"{name}.bias"),
                numpy_helper.from_array(np.array([-1, width], np.int64), f"{name}.shape"),
            ]
            nodes.append(helper.make_node("Conv", [pooled, f"{name}.weight", f"{name}.bias"], [f"{name}.map"]))
            last = f"{name}.map"
            if told is None:
                nodes.append(helper.make_node("Sigmoid", [last], [f"{name}.sure"]))
                last = f"{name}.sure"
            nodes.append(helper.make_node("Transpose", [last], [f"{name}.last"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{name}.last", f"{name}.shape"], [name]))
            outputs[kind].append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]))
    photo = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])
    _save(path, nodes, photo, [*outputs["score"], *outputs["bbox"], *outputs["kps"]], constants)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    taken: onnx.ValueInfoProto,
    given: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> None:
    graph = helper.make_graph(nodes, "synthetic", [taken], given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
