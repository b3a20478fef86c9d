"""A small ONNX file with YuNet's interface, without its knowledge.

It sees one face, from the front, in the middle of whatever it is shown, and none in a picture that is black throughout.
"""

from pathlib import Path

import numpy as np
import onnx

from shared.vision.networks.crop512 import TEMPLATE
from shared.vision.networks.tiny_faces import Graph

STRIDES = (8, 16, 32)
"""Pixels of the input that a cell covers, at the network's three scales."""

FACE_SHARE = 0.4
"""The face's width, of the picture's shorter side, unless told otherwise."""

HIGH = 1.2
"""The face's height, in its widths."""

_EYES_APART = 0.46
"""Of the face's width."""

_SURE = 0.98


def write(path: Path, share: float = FACE_SHARE) -> None:
    """Write it, into a folder that is made where it is missing.

    At each stride, for each cell: how much it is a face (cls) and a thing (obj), 0 to 1; the box's middle from the cell
    and the logarithms of its width and height (bbox), five points from the cell (kps), all in strides. What OpenCV adds
    to make the sides multiples of 32 is black: how far the picture reaches is told from that. The face is told by the
    first cell of the coarsest stride.

    Args:
        path: of the ONNX file.
        share: the face's width, of the picture's shorter side.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    points = (TEMPLATE - TEMPLATE.mean(axis=0)) / (TEMPLATE[1, 0] - TEMPLATE[0, 0]) * _EYES_APART
    graph = Graph()
    brightest = graph.add("ReduceMax", "input", axes=[1], keepdims=1)
    lit = graph.add("Clip", brightest, graph.number(0), graph.number(1))
    wide, high = _reach(graph, lit, 3), _reach(graph, lit, 2)
    shorter = graph.add("Min", wide, high)
    middle = graph.add("Mul", graph.add("Concat", wide, high, axis=2), graph.number(0.5 / STRIDES[-1]))
    width = graph.add("Mul", shorter, graph.number(share / STRIDES[-1]))
    size = graph.add("Max", graph.add("Concat", width, _times(graph, width, HIGH), axis=2), graph.number(1e-6))
    offsets = graph.add("Mul", width, graph.constant(points.reshape(1, 1, -1)))
    seen = _times(graph, graph.add("Clip", shorter, graph.number(0), graph.number(1)), _SURE)
    bbox = graph.add("Concat", middle, graph.add("Log", size), axis=2)
    kps = graph.add("Add", graph.add("Concat", *[middle] * len(points), axis=2), offsets)
    names: dict[str, str] = {}
    given: list[tuple[str, list[int | str | None]]] = []
    for stride in STRIDES:
        nothing = _cells(graph, stride)
        everywhere = graph.add("Add", nothing, graph.number(1))
        numbered = graph.add("CumSum", everywhere, graph.constant(np.array(1, np.int64)))
        first = graph.add("Clip", graph.add("Sub", graph.number(2), numbered), graph.number(0), graph.number(1))
        sure = graph.add("Mul", first if stride == STRIDES[-1] else nothing, seen)
        for kind, value, across in (("cls", sure, 1), ("obj", everywhere, 1), ("bbox", bbox, 4), ("kps", kps, 10)):
            output = graph.add("Identity", value) if across == 1 else graph.add("Add", nothing, value)
            names[output] = f"{kind}_{stride}"
            given.append((output, [1, None, across]))
    graph.save(path, ("input", [1, 3, "h", "w"]), given)
    _rename(path, names)


def _reach(graph: Graph, lit: str, axis: int) -> str:
    """How many columns (axis 3) or rows (axis 2) there are up to the last lit one: [1, 1, 1] of [1, 1, H, W]."""
    line = graph.add("ReduceMax", lit, axes=[5 - axis], keepdims=1)
    ones = graph.add("Add", _times(graph, line, 0), graph.number(1))
    numbered = graph.add("CumSum", ones, graph.constant(np.array(axis, np.int64)))
    last = graph.add("ReduceMax", graph.add("Mul", line, numbered), axes=[axis], keepdims=1)
    return graph.add("Reshape", last, graph.integers(1, 1, 1))


def _cells(graph: Graph, stride: int) -> str:
    """A zero for each cell, row by row: [1, N, 1]."""
    pooled = graph.add("AveragePool", "input", kernel_shape=[stride] * 2, strides=[stride] * 2)
    one = graph.add("ReduceMax", pooled, axes=[1], keepdims=1)
    return _times(graph, graph.add("Reshape", one, graph.integers(1, -1, 1)), 0)


def _times(graph: Graph, value: str, factor: float) -> str:
    return graph.add("Mul", value, graph.number(factor))


def _rename(path: Path, names: dict[str, str]) -> None:
    """Give outputs of a file the names by which OpenCV asks for them."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = names[output.name]
    onnx.checker.check_model(model)
    onnx.save(model, path)
