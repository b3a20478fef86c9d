"""A models folder for the GPU's benchmark of a recipe: networks as heavy as the published ones, whose answers are set.

Detectors and recognisers of random weights find nothing, and then nothing would be painted. So each is one of the tiny
stand-ins that the tests use, which always find the same, with ballast: convolutions of about as many weights and
multiplications as the published network, whose result is added to the answer a billion billion times weaker. Restorer
and upscaler are the published architectures with random weights. FLUX itself is made on the device (bench/gpu_recipe).
"""

import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RestoreFormer import RestoreFormer

from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.vision.networks import tiny_esrgan, tiny_faces, tiny_restorer, tiny_swapper, tiny_yolo, tiny_yunet
from shared.vision.networks.antelope import DETECTOR
from shared.vision.networks.antelope import RECOGNISER as RECOGNISER_OF_IT
from shared.vision.networks.insight import BUFFALO_L

FLUX, REAL1SM, PULID = "bench-flux", "bench-real1sm", "bench-pulid"
HANDS, FACES, ENCODER = "bench-hands", "bench-faces", "bench-encoder"
PACK, SWAPPER = "bench-pack", "bench-swapper"
RESTORER, UPSCALER, YUNET, RECOGNISER = "bench-restorer", "bench-upscaler", "bench-yunet", "bench-recogniser"

FACE: Final = (0.5, 0.35, 0.2)
"""The middle and the width of the one face, in shares of the picture."""
FACE_BOX: Final = ((0.5, 0.35, 0.2, 0.24),)
HAND_BOXES: Final = ((0.18, 0.78, 0.12, 0.12), (0.82, 0.78, 0.12, 0.12))


class Weight(NamedTuple):
    """How heavy a network is: millions of weights, and billions of operations for one input (two a multiplication)."""

    millions: float
    gflop: float


SCRFD_10G, R50, R100 = Weight(4.2, 20), Weight(43.6, 12.6), Weight(65.2, 24.2)
YOLOV8M, YOLOV9C, INSWAPPER = Weight(25.9, 78.9), Weight(25.5, 102.8), Weight(138, 300)
"""Published weights and operations (InsightFace's model zoo, ultralytics' tables); of inswapper the weights are those
of its file, and the operations a guess from its layers at 32 x 32."""
FEATHER = Weight(0.0005, 0.0001)
"""Of the small run: the ballast is there, and weighs nothing."""


def write(folder: Path, *, full: bool) -> None:
    """Write all of it.

    Args:
        folder: of models; there is nothing of ours in it yet.
        full: as heavy as published; else tiny.
    """

    def heavy(published: Weight) -> Weight:
        return published if full else FEATHER

    tiny_yolo.write(folder / HANDS / "hands.onnx", HAND_BOXES)
    tiny_yolo.write(folder / FACES / "faces.onnx", FACE_BOX)
    tiny_swapper.write_pack(folder / PACK, [FACE], alike=1.0)
    tiny_faces.write(folder / ENCODER)
    tiny_swapper.write(folder / SWAPPER)
    (folder / YUNET).mkdir(parents=True)
    tiny_yunet.write(folder / YUNET / "yunet.onnx", FACE[2])
    (folder / RECOGNISER).mkdir(parents=True)
    tiny_faces.write_recogniser(folder / RECOGNISER / "recogniser.onnx", 1.0)
    for path, weight in (
        (folder / HANDS / "hands.onnx", YOLOV9C),
        (folder / FACES / "faces.onnx", YOLOV8M),
        (folder / PACK / BUFFALO_L.detector, SCRFD_10G),
        (folder / PACK / BUFFALO_L.recogniser, R50),
        (folder / ENCODER / DETECTOR, SCRFD_10G),
        (folder / ENCODER / RECOGNISER_OF_IT, R100),
        (folder / SWAPPER / tiny_swapper.SWAPPER, INSWAPPER),
        (folder / RECOGNISER / "recogniser.onnx", R100),
    ):
        load_down(path, heavy(weight))
    if full:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            tiny_esrgan.save(restorer(), folder / RESTORER / "restorer.safetensors")
            tiny_esrgan.save(ESRGAN(), folder / UPSCALER / "upscaler.safetensors")
    else:
        tiny_restorer.write(folder / RESTORER)
        tiny_esrgan.write(folder / UPSCALER)


def restorer() -> Any:
    """CodeFormer in its published size; where its library is not installed, RestoreFormer, which is about as heavy."""
    if find_spec("spandrel_extra_arches") is None:
        return RestoreFormer()
    arches = import_module("spandrel_extra_arches.architectures.CodeFormer.__arch.codeformer")
    return arches.CodeFormer()


def load_down(path: Path, weight: Weight) -> None:
    """Put ballast into an ONNX file: so many weights and operations that its first input goes through as well.

    They are 3 x 3 convolutions, one after another; what is left of them is added to the first output, times 1e-18.
    """
    channels, layers, side = _shape_of(weight)
    model = onnx.load(path)
    graph = model.graph
    given, answer = graph.input[0].name, graph.output[0].name
    random = np.random.default_rng(0)
    constants = {
        "ballast shape": np.array([1, channels, side, side], np.int64),
        "ballast scalar": np.array([1, 1, 1, 1], np.int64),
        "ballast nothing": np.float32(1e-18),
    }
    for node in graph.node:
        node.output[:] = [f"{name} alone" if name == answer else name for name in node.output]
        node.input[:] = [f"{name} alone" if name == answer else name for name in node.input]
    nodes = [
        helper.make_node("ReduceMean", [given], ["ballast mean"], keepdims=1),
        helper.make_node("Reshape", ["ballast mean", "ballast scalar"], ["ballast one"]),
        helper.make_node("Expand", ["ballast one", "ballast shape"], ["ballast 0"]),
    ]
    for layer in range(layers):
        name = f"ballast weights {layer}"
        drawn = random.standard_normal((channels, channels, 3, 3), np.float32) * math.sqrt(2 / (9 * channels))
        constants[name] = drawn.astype(np.float32)
        nodes += [
            helper.make_node("Conv", [f"ballast {layer}", name], [f"ballast c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"ballast c{layer}"], [f"ballast {layer + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"ballast {layers}"], ["ballast left"], keepdims=0),
        helper.make_node("Mul", ["ballast left", "ballast nothing"], ["ballast faint"]),
        helper.make_node("Add", [f"{answer} alone", "ballast faint"], [answer]),
    ]
    kept = list(graph.initializer)
    graph.node.extend(nodes)
    del graph.initializer[:]
    # in front of what was there: a swapper's matrix is the last constant of its file
    graph.initializer.extend([numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    graph.initializer.extend(kept)
    onnx.save(model, path)


def _shape_of(weight: Weight) -> tuple[int, int, int]:
    """Channels, layers and the side of the square that come to about so much."""
    channels = 1024 if weight.millions > 100 else 512 if weight.millions > 30 else 256 if weight.millions > 1 else 4
    layers = max(1, round(weight.millions * 1e6 / (9 * channels**2)))
    side = max(1, round(math.sqrt(weight.gflop * 1e9 / (2 * 9 * channels**2 * layers))))
    return channels, layers, side


def identity(tokens: int, width: int) -> bytes:
    """Somebody, as identity.encode hands them on: alike to whomever the tiny recognisers see."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(tokens, width, generator=generator) for _ in range(2)]
    about = PulidAbout(models={"idformer": PULID, "arcface": PACK}, fusion="mean", photos=1)
    return save_identity(PulidIdentity(made[0], made[1], torch.ones(1, 512), about))
