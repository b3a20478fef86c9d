"""A small ONNX file with the interface of an exported YOLOv8, without its knowledge: it always finds the same boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from shared.vision.networks.letterbox import GREY
from shared.vision.networks.tiny_faces import Graph

SIDE_PX = 640
ANCHORS = 8400
"""How many candidates an export for 640 x 640 gives."""

BEST_SCORE, NEXT_WORSE = 0.99, 0.01
"""The first box's score, and by how much each is worse than the one before."""

Share = tuple[float, float, float, float]


def write(path: Path, boxes: Sequence[Share] = ((0.5, 0.5, 0.4, 0.4),)) -> None:
    """Write the file, into a folder that is made where it is missing. Its one class is number 0.

    Where in its input the picture lies is told from the grey padding about it, so that the boxes are the picture's,
    whatever its shape. Rows and columns of that very grey (114, 114, 114) at a picture's own edge count as padding, and
    a picture of nothing else has no boxes.

    Args:
        path: of the ONNX file.
        boxes: x and y of the middle, width and height, in shares of the picture's width and height; best first. At most
            90, and of two that share more than 0.7 of their joint area a detector tells the better only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = Graph()
    apart = graph.add("Abs", graph.add("Sub", "images", graph.number(GREY / 255)))
    lit = graph.add("Greater", graph.add("ReduceMax", apart, axes=[1], keepdims=0), graph.number(0.5 / 255))
    mask = graph.add("Cast", lit, to=TensorProto.FLOAT)
    (left, width), (top, height) = (_extent(graph, mask, axis) for axis in (1, 2))
    place = graph.add("Concat", left, top, width, height, graph.constant(np.ones((1, 1))), axis=1)
    rows = graph.add("MatMul", place, graph.constant(_of_place(boxes)))
    told = graph.add("Reshape", rows, graph.integers(1, 5, len(boxes)))
    filled = graph.add("Pad", told, graph.integers(0, 0, 0, 0, 0, ANCHORS - len(boxes)))
    graph.save(path, ("images", [1, 3, SIDE_PX, SIDE_PX]), [(filled, [1, 5, ANCHORS])])


def _extent(graph: Graph, mask: str, axis: int) -> tuple[str, str]:
    """The first column (axis 1) or row (axis 2) of a mask [1, H, W] that is not empty, and how many to the last one."""
    line = graph.add("ReduceMax", mask, axes=[axis], keepdims=0)
    numbered = np.arange(1, SIDE_PX + 1)[None].astype(np.float32)
    end, from_end = (
        graph.add("ReduceMax", graph.add("Mul", line, graph.constant(numbers)), axes=[1], keepdims=1)
        for numbers in (numbered, np.flip(numbered, axis=1))
    )
    start = graph.add("Sub", graph.number(SIDE_PX), from_end)
    return start, graph.add("Sub", end, start)


def _of_place(boxes: Sequence[Share]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[5, 5 * boxes]: what turns left, top, width, height and 1 into x, y, width, height and score of all boxes."""
    made = np.zeros((5, 5, len(boxes)))
    for number, (x, y, width, height) in enumerate(boxes):
        made[:, :, number] = [
            [1, 0, 0, 0, 0],
            [0, 1, 0, 0, 0],
            [x, 0, width, 0, 0],
            [0, y, 0, height, 0],
            [0, 0, 0, 0, BEST_SCORE - NEXT_WORSE * number],
        ]
    return made.reshape(5, -1)
