"""Small random YOLOs of ultralytics, and the checkpoints that it would save of them."""

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from shared.vision.networks.letterbox import letterbox, place
from tests.photos import astronaut, scaled

TRAINED_PX = 320

PHOTOS = {
    "square": astronaut(),
    "tall": astronaut()[:, 100:301],
    "wide": astronaut()[60:200],
    "large": scaled(astronaut(), 1.7)[:, :801],
    "thin": astronaut()[:, 200:213],
}

V8 = "yolov8n.yaml"
V9 = "yolov9t.yaml"

SMALL_V8: dict[str, Any] = {
    "nc": 80,
    "scales": {"n": [0.33, 0.25, 1024]},
    "scale": "n",
    "backbone": [
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 3, "C2f", [64, True]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 1, "SPPF", [128, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 3, "C2f", [64]],
        [[3, 9, 6], 1, "Detect", ["nc"]],
    ],
}
"""The modules of yolov8, fewer and narrower."""

SMALL_V9: dict[str, Any] = {
    "nc": 80,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "RepNCSPELAN4", [32, 16, 8, 1]],
        [-1, 1, "ADown", [32]],
        [-1, 1, "RepNCSPELAN4", [32, 32, 16, 1]],
        [-1, 1, "ADown", [32]],
        [-1, 1, "ADown", [32]],
        [-1, 1, "SPPELAN", [32, 16]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 5], 1, "Concat", [1]],
        [[4, 9, 7], 1, "Detect", ["nc"]],
    ],
}
"""The modules of yolov9c, fewer and narrower."""


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep ultralytics off the network, its settings in a folder, and its hands off what other tests use."""
    for name, value in {"OFFLINE": "true", "AUTOINSTALL": "false", "VERBOSE": "false"}.items():
        monkeypatch.setenv(f"YOLO_{name}", value)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(folder))
    for owner, replaced in ((cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow"), (torch, "save")):
        monkeypatch.setattr(owner, replaced, getattr(owner, replaced))
    threads = cv2.getNumThreads()
    import_module("ultralytics.nn.tasks")
    cv2.setNumThreads(threads)


def network(architecture: str | dict[str, Any], classes: int = 3, seed: int = 0) -> nn.Module:
    """A DetectionModel of random weights that finds something: its layers are normalised, its scores spread."""
    from ultralytics.nn.tasks import DetectionModel

    make: Any = DetectionModel

    generator = torch.Generator().manual_seed(seed)
    size = (TRAINED_PX, TRAINED_PX)
    shown = [letterbox(photo, place((photo.shape[0], photo.shape[1]), size)) for photo in PHOTOS.values()]
    pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 255
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(architecture, nc=classes, verbose=False)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(pixels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    model.eval()
    for branch in model.model[-1].cv3:
        nn.init.normal_(branch[-1].weight, generator=generator)
        nn.init.zeros_(branch[-1].bias)
    with torch.no_grad():
        _, raw = model(pixels)
        cells, scores = [one[0, 0].numel() for one in raw["feats"]], raw["scores"]
        for branch, seen in zip(model.model[-1].cv3, scores.split(cells, dim=2), strict=True):
            high, middle = seen.amax(), seen.mean()
            branch[-1].weight *= 3 / (high - middle)
            branch[-1].bias -= 3 * high / (high - middle)
    model.names = dict(enumerate(("hand", "face", "foot")[:classes]))
    made: nn.Module = model
    return made


def save(model: nn.Module, path: Path, **more: object) -> Path:
    """As ultralytics strips a checkpoint at the end of a training: in half precision."""
    document = {
        "epoch": -1,
        "best_fitness": None,
        "model": deepcopy(model).half(),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {"task": "detect", "imgsz": TRAINED_PX, "project": None, "save_dir": Path("runs")},
        "train_metrics": {"fitness": np.float64(0.5)},
        "date": "2024-03-01T00:00:00",
        "version": "8.1.20",
    }
    torch.save({**document, **more}, path)
    return path
