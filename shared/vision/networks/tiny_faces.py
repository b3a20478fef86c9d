"""Two small ONNX files with the interface of antelopev2's, without its knowledge.

The detector sees one face, from the front, in the middle of whatever it is shown. The recogniser is a fixed random
projection of the aligned face: alike pictures give alike vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.vision.networks.antelope import DETECTOR, RECOGNISER
from shared.vision.networks.crop512 import TEMPLATE

STRIDES = (8, 16, 32)
"""Pixels of the detector's input that a cell covers, at its three scales. Each cell has two anchors."""

FACE_SHARE = 0.4
"""The face's width, of the photo's shorter side."""

Seen = tuple[float, float, float]
"""A face: where its middle is, as shares of the photo's width and height, and its width, of the photo's shorter side.

There is room for twenty."""

MIDDLE: Seen = (0.5, 0.5, FACE_SHARE)

ALIKE = 1.0
"""What is added to each number of a vector: with it any two faces are alike enough to be one person's."""

_PADDING = -0.99
"""Normalised levels below are black: what the detector's input is filled up with."""

_BOX = (-0.5, -0.6, 0.5, 0.6)
"""Left, top, right and bottom of the face about its middle, in its widths."""

_EYES_APART = 0.46
"""Of the face's width."""


def write(folder: Path) -> None:
    """Write the two files, into a folder that is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / DETECTOR)
    write_recogniser(folder / RECOGNISER, ALIKE)


def write_detector(path: Path, faces: Sequence[Seen] = (MIDDLE,)) -> None:
    """SCRFD's interface: at each stride, for each anchor, a score, distances to a box's edges and to five points.

    The photo fills its square input from the upper left corner on. How far is told from the padding, so that a place is
    the photo's, whatever its shape. The faces are told by the coarsest stride's first anchors: two in each cell of its
    first row.
    """
    points = (TEMPLATE - TEMPLATE.mean(axis=0)) / (TEMPLATE[1, 0] - TEMPLATE[0, 0]) * _EYES_APART
    graph = Graph()
    lit = graph.add("Greater", graph.add("ReduceMax", "input.1", axes=[1], keepdims=0), graph.number(_PADDING))
    mask = graph.add("Cast", lit, to=TensorProto.FLOAT)
    edges = [_last_lit(graph, mask, axis) for axis in (1, 2)]
    sides, shorter = graph.add("Concat", *edges, axis=1), graph.add("Min", *edges)
    told: dict[str, list[str]] = {"score": [], "bbox": [], "kps": []}
    for number, (x, y, width) in enumerate(faces):
        size = graph.add("Mul", shorter, graph.number(width / STRIDES[-1]))
        middle = graph.add("Mul", sides, graph.constant(np.array([[x, y]]) / STRIDES[-1]))
        middle = graph.add("Sub", middle, graph.constant(np.array([[number // 2, 0.0]])))
        box = _about(graph, middle, size, _BOX)
        told["score"].append(graph.constant(np.array([[0.99 - 0.001 * number]])))
        told["bbox"].append(graph.add("Mul", box, graph.constant(np.array([[-1.0, -1.0, 1.0, 1.0]]))))
        told["kps"].append(_about(graph, middle, size, points.ravel().tolist()))
    widths = {"score": 1, "bbox": 4, "kps": 10}
    given: dict[str, list[str]] = {kind: [] for kind in widths}
    for stride in STRIDES:
        cells = graph.add("AveragePool", "input.1", kernel_shape=[stride] * 2, strides=[stride] * 2)
        anchors = graph.add("Slice", cells, graph.integers(0), graph.integers(2), graph.integers(1))
        rows = graph.add("Mul", graph.add("Reshape", anchors, graph.integers(-1, 1)), graph.number(0.0))
        for kind, width in widths.items():
            if stride != STRIDES[-1] or not faces:
                given[kind].append(graph.add("Mul", rows, graph.constant(np.zeros((1, width)))))
                continue
            others = graph.add("Slice", rows, graph.integers(len(faces)), graph.integers(2**31), graph.integers(0))
            wide = graph.add("Mul", others, graph.constant(np.zeros((1, width))))
            given[kind].append(graph.add("Concat", *told[kind], wide, axis=0))
    graph.save(
        path, ("input.1", [1, 3, "h", "w"]), [(name, [None, widths[kind]]) for kind in given for name in given[kind]]
    )


def write_recogniser(path: Path, alike: float = 0.0) -> None:
    """ArcFace's interface: a face of 112 x 112 to 512 numbers, here a projection of it at 14 x 14.

    Args:
        path: of the ONNX file.
        alike: added to each of the numbers.
    """
    projection = np.random.default_rng(0).standard_normal((588, 512)) / 24
    graph = Graph()
    small = graph.add("AveragePool", "input.1", kernel_shape=[8, 8], strides=[8, 8])
    flat = graph.add("Reshape", small, graph.integers(-1, 588))
    projected = graph.add("MatMul", flat, graph.constant(projection))
    told = graph.add("Add", projected, graph.number(alike))
    graph.save(path, ("input.1", ["None", 3, 112, 112]), [(told, ["N", 512])])


def _last_lit(graph: "Graph", mask: str, axis: int) -> str:
    """How many columns (axis 1) or rows (axis 2) of a mask [1, H, W] there are up to the last one that is not empty."""
    line = graph.add("ReduceMax", mask, axes=[axis], keepdims=0)
    ones = graph.add("Add", graph.add("Mul", line, graph.number(0.0)), graph.number(1.0))
    numbered = graph.add("CumSum", ones, graph.constant(np.array(1, np.int64)))
    return graph.add("ReduceMax", graph.add("Mul", line, numbered), axes=[1], keepdims=1)


def _about(graph: "Graph", middle: str, size: str, offsets: Sequence[float]) -> str:
    """Points x, y, x, y ... about a middle [1, 2], at offsets in sizes [1, 1]: [1, count]."""
    middles = graph.add("Concat", *[middle] * (len(offsets) // 2), axis=1)
    return graph.add("Add", middles, graph.add("Mul", size, graph.constant(np.array([offsets]))))


class Graph:
    """An ONNX graph in the making; values go by their names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *taken: str, **attributes: Any) -> str:
        """The value that an operator makes of others."""
        made = f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(taken), [made], name=f"node_{made}", **attributes))
        return made

    def constant(self, value: NDArray[Any]) -> str:
        """Numbers; those that are not whole are stored in fp32."""
        name = f"constant{len(self._constants)}"
        stored = value if np.issubdtype(value.dtype, np.integer) else value.astype(np.float32)
        self._constants.append(numpy_helper.from_array(stored, name))
        return name

    def number(self, value: float) -> str:
        """A single one."""
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Indices or a shape."""
        return self.constant(np.array(values, np.int64))

    def save(
        self,
        path: Path,
        taken: tuple[str, Sequence[int | str | None]],
        given: Sequence[tuple[str, Sequence[int | str | None]]],
    ) -> None:
        """Write it, checked, with its input's and its outputs' names and shapes."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (taken, *given)]
        graph = helper.make_graph(self._nodes, "tiny", values[:1], values[1:], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        onnx.save(model, path)
