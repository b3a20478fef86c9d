"""Our detector against ultralytics' own predictor: the same weights, the same photos."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from shared.models.convert_yolo import export
from shared.models.onnx import open_session
from shared.vision.codec import Image
from shared.vision.networks.yolo import SIDE_PX, YoloDetector
from tests.engines.yolo_checkpoints import PHOTOS, TRAINED_PX, V8, V9, alone, network

MIN_SCORE = 0.05
"""Of random weights, so that there are hundreds of candidates."""


CASES = {"v8": (V8, False), "v9": (V9, False), "v8 of any size": (V8, True)}

COMPARED = [
    *(("v8", name, 0.7) for name in PHOTOS),
    ("v8", "tall", 0.3),
    *(("v9", name, 0.7) for name in ("square", "tall", "wide")),
    *(("v8 of any size", name, 0.7) for name in ("tall", "wide", "thin")),
]
"""Which network on which photo, and the share above which two boxes are of one thing."""


class Case(NamedTuple):
    """A network as ultralytics has it, and the file that was made of it."""

    network: nn.Module
    file: Path
    dynamic: bool

    @property
    def side(self) -> int:
        return SIDE_PX if self.dynamic else TRAINED_PX


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("yolo")
    with pytest.MonkeyPatch.context() as patch:
        alone(patch, made)
        yield made


@pytest.fixture(scope="module")
def case_of(folder: Path) -> Callable[[str], Case]:
    """Makes each once."""

    @cache
    def made(kind: str) -> Case:
        architecture, dynamic = CASES[kind]
        model, file = network(architecture), folder / f"{kind}.onnx"
        export(deepcopy(model), file, TRAINED_PX, dynamic=dynamic)
        return Case(model, file, dynamic)

    return made


def ours(case: Case, photo: Image, iou: float = 0.7) -> NDArray[np.float64]:
    """[N, 6]: left, top, right, bottom, score and class."""
    found = YoloDetector(open_session(case.file, "cpu"), "ours").find(photo, MIN_SCORE, iou)
    return np.array(
        [(x, y, x + width, y + height, one.score, one.label) for one in found for x, y, width, height in [one.box]]
    ).reshape(-1, 6)


def theirs(case: Case, model: Any, photo: Image, iou: float = 0.7) -> NDArray[np.float64]:
    """The same of ultralytics; what has no area is left out."""
    from ultralytics.models.yolo.detect import DetectionPredictor

    settings = {"task": "detect", "mode": "predict", "save": False, "verbose": False, "device": "cpu"}
    size = {"imgsz": case.side, "rect": case.dynamic, "project": str(case.file.parent)}
    predictor = DetectionPredictor(overrides={**settings, **size, "conf": MIN_SCORE, "iou": iou})
    (result,) = predictor(np.ascontiguousarray(photo[:, :, ::-1]), model=model)
    rows = np.array(result.boxes.data.tolist()).reshape(-1, 6)
    return np.asarray(rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])])


@pytest.mark.parametrize(("kind", "name", "iou"), COMPARED)
def test_of_the_same_file_we_tell_the_same_boxes_scores_classes_and_order(
    case_of: Callable[[str], Case], kind: str, name: str, iou: float
) -> None:
    """To the rounding of x + width: both ask onnxruntime. Of equal scores ultralytics' sorting puts either first."""
    case = case_of(kind)
    wanted, found = theirs(case, str(case.file), PHOTOS[name], iou), ours(case, PHOTOS[name], iou)
    assert len(wanted) > 10
    assert found.shape == wanted.shape
    assert np.abs(found[:, 4] - wanted[:, 4]).max() < 1e-6
    apart = np.abs(found[:, None] - wanted[None]).max(axis=2)
    assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 1e-3


@pytest.mark.parametrize("kind", ["v8", "v9"])
def test_of_the_network_itself_torch_tells_the_same(case_of: Callable[[str], Case], kind: str) -> None:
    """Torch and onnxruntime round otherwise, so that a pair of equals may change places, and now and then one wins."""
    case = case_of(kind)
    wanted, found = theirs(case, deepcopy(case.network), PHOTOS["square"]), ours(case, PHOTOS["square"])
    apart = np.abs(wanted[:, None] - found[None])
    same = (apart[..., :4].max(axis=2) < 0.1) & (apart[..., 4] < 1e-3) & (apart[..., 5] == 0)
    assert len(wanted) > 50
    assert same.any(axis=1).mean() > 0.95
    assert same.any(axis=0).mean() > 0.95
