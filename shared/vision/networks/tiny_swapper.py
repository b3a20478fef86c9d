"""Small ONNX files with the interfaces of what a face swap needs, without its knowledge.

The pack sees faces where it is told to, takes who is more red than blue for a woman, and describes a face by a fixed
random projection. The swappers tint a face by a colour that they read off the source's embedding. The occluder takes
what is blue for something before the face.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.vision.networks.insight import BUFFALO_L, Pack
from shared.vision.networks.tiny_faces import MIDDLE, Graph, Seen, write_detector, write_recogniser

SWAPPER = "inswapper_128.onnx"

KEPT = 0.6
"""Of the face's own colour; the rest is the source's."""

AGE = 0.4
"""A hundredth of the years that everybody is taken to be old."""


def write(folder: Path, seed: int = 0) -> None:
    """Write inswapper_128 to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_swapper(folder / SWAPPER, seed)


def write_pack(folder: Path, faces: Sequence[Seen] = (MIDDLE,), pack: Pack = BUFFALO_L, alike: float = 0.0) -> None:
    """Write a pack of InsightFace to a folder, which is made.

    Args:
        folder: for its three files.
        faces: what the detector sees in any picture.
        pack: the files' names.
        alike: as of `write_recogniser`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / pack.detector, faces)
    write_recogniser(folder / pack.recogniser, alike)
    write_attributes(folder / pack.attributes)


def write_swapper(path: Path, seed: int = 0) -> None:
    """inswapper_128's interface: target [1, 3, 128, 128] and source [1, 512] to one picture of the target's shape.

    Its last constant is the matrix that a source's embedding goes through first; no operator reads it.
    """
    random = np.random.default_rng(seed)
    matrix = np.linalg.qr(random.standard_normal((512, 512)))[0]
    _save_swapper(path, random, (1, 3, 128, 128), outputs=1, last=matrix)


def write_hyperswap(path: Path, seed: int = 0, batch: int | str = "batch") -> None:
    """Hyperswap's interface: target [N, 3, 256, 256] from -1 to 1 and source [N, 512] to a picture and a mask."""
    _save_swapper(path, np.random.default_rng(seed), (batch, 3, 256, 256), outputs=2)


def write_attributes(path: Path) -> None:
    """Genderage's interface: a face of 96 x 96 to how much it is a woman's, how much a man's, and its age / 100."""
    graph = Graph()
    means = graph.add("Flatten", graph.add("GlobalAveragePool", "data"))
    weights = graph.constant(np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]))
    told = graph.add("Add", graph.add("MatMul", means, weights), graph.constant(np.array([[0.0, 0.0, AGE]])))
    graph.save(path, ("data", ["None", 3, 96, 96]), [(told, [1, 3])])


def write_occluder(path: Path) -> None:
    """XSeg's interface: a face [1, 256, 256, 3], BGR from 0 to 1, to how much of each place is the face, [.., 1]."""
    graph = Graph()
    # A place is the face's unless its blue exceeds its red by a quarter.
    weights = graph.constant(np.array([[-8.0], [0.0], [8.0]]))
    told = graph.add("Sigmoid", graph.add("Add", graph.add("MatMul", "input", weights), graph.number(2.0)))
    graph.save(path, ("input", [1, 256, 256, 3]), [(told, [1, 256, 256, 1])])


def _save_swapper(
    path: Path,
    random: np.random.Generator,
    shape: tuple[int | str, int, int, int],
    outputs: int,
    last: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None,
) -> None:
    """A mix of the target and of a colour, which is the sigmoid of a projection of the source."""
    colours = random.standard_normal((512, 3)) * 2
    constants = {
        "colours": colours.astype(np.float32),
        "shape": np.array([-1, 3, 1, 1], np.int64),
        "kept": np.float32(KEPT),
        "taken": np.float32(1 - KEPT),
        **({} if last is None else {"emap": last.astype(np.float32)}),
    }
    nodes = [
        helper.make_node("MatMul", ["source", "colours"], ["projected"]),
        helper.make_node("Sigmoid", ["projected"], ["colour"]),
        helper.make_node("Reshape", ["colour", "shape"], ["everywhere"]),
        helper.make_node("Mul", ["target", "kept"], ["own"]),
        helper.make_node("Mul", ["everywhere", "taken"], ["new"]),
        helper.make_node("Add", ["own", "new"], ["output"]),
    ]
    given = [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)]
    if outputs > 1:
        nodes.append(helper.make_node("ReduceMean", ["output"], ["mask"], axes=[1], keepdims=1))
        given.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, (shape[0], 1, *shape[2:])))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, (shape[0], 512)),
        ],
        given,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
