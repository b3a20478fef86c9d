"""Checkpoints of ultralytics become ONNX; those that want anything else than to be read do not."""

import os
import sys
from collections.abc import Iterator
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from shared.contracts.errors import IntegrityError, Permanent
from shared.models.catalogue import parse
from shared.models.convert_yolo import build, to_onnx
from shared.models.onnx import open_session
from shared.models.prepare import convert
from shared.models.shelf import Shelf
from shared.models.yolo_checkpoint import read
from shared.vision.networks.yolo import YoloDetector
from tests.engines.yolo_checkpoints import SMALL_V8, SMALL_V9, TRAINED_PX, alone, network, save
from tests.photos import astronaut


class Wants:
    """Has its pickle call something when it is opened without care."""

    def __init__(self, called: Any, *told: object) -> None:
        self._called, self._told = called, told

    def __reduce__(self) -> tuple[Any, ...]:
        return self._called, self._told


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("ultralytics")
    with pytest.MonkeyPatch.context() as patch:
        alone(patch, made)
        yield made


@pytest.fixture(scope="module")
def v8(folder: Path) -> nn.Module:
    return network(SMALL_V8)


def described(model: nn.Module, **changes: object) -> nn.Module:
    """The same network with another description."""
    changed: Any = deepcopy(model)
    changed.yaml = {**changed.yaml, **changes}
    return changed  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", [SMALL_V8, SMALL_V9], ids=["v8", "v9"])
def test_a_checkpoint_becomes_a_detector_that_finds_the_same(tmp_path: Path, architecture: Any) -> None:
    """The weights are stored in half precision; the input has the size of the training."""
    model = network(architecture)
    to_onnx(save(model, tmp_path / "hands.pt"), tmp_path / "hands.onnx")
    session = open_session(tmp_path / "hands.onnx", "cpu")
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("images", [1, 3, TRAINED_PX, TRAINED_PX])]
    pixels = torch.rand(1, 3, TRAINED_PX, TRAINED_PX, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, _ = model.half().float()(pixels)
    given = torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])
    assert (given - wanted)[:, :4].abs().max() < 0.1, "pixels"
    assert (given - wanted)[:, 4:].abs().max() < 1e-3
    assert YoloDetector(session, "hands").find(astronaut(), 0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hands.onnx", "hands.pt"]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, v8: nn.Module) -> None:
    source = save(v8, tmp_path / "hands.pt")
    for name in ("one", "two"):
        to_onnx(source, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_running_average_goes_first(tmp_path: Path, v8: nn.Module) -> None:
    average = deepcopy(v8)
    nn.init.constant_(average.get_parameter("model.0.conv.weight"), 0.25)
    found = read(save(v8, tmp_path / "hands.pt", ema=average))
    assert found.tensors["model.0.conv.weight"].unique().tolist() == [0.25]


def test_reading_imports_nothing_of_ultralytics(tmp_path: Path, v8: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that only an older ultralytics had are no trouble, then: the objects become records."""
    source = save(v8, tmp_path / "hands.pt")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    found = read(source)
    assert found.layers["model.0"].kind == "ultralytics.nn.modules.conv.Conv"
    assert found.tensors.keys() == v8.state_dict().keys()
    assert found.side == TRAINED_PX


@pytest.mark.parametrize("settings", [{}, {"imgsz": 640}, {"imgsz": 615}])
def test_the_side_is_that_of_the_training_up_to_the_next_multiple_of_32(
    tmp_path: Path, v8: nn.Module, settings: dict[str, int]
) -> None:
    assert read(save(v8, tmp_path / "hands.pt", train_args=settings)).side == 640


def bombs(mark: Path) -> dict[str, tuple[object, str]]:
    """What a pickle might hold, and what is said of it."""
    from ultralytics.utils.downloads import safe_download

    return {
        "posix.mkdir": (Wants(os.mkdir, str(mark)), r"posix\.mkdir"),
        "eval": (Wants(eval, f"__import__('os').mkdir({str(mark)!r})"), r"eval"),
        "getattr": (Wants(getattr, "text", "upper"), r"getattr"),
        "torch.load": (Wants(torch.load, str(mark)), r"torch\.serialization\.load"),
        "download": (Wants(safe_download, "http://192.0.2.1/", str(mark)), ""),
    }


@pytest.mark.parametrize("name", ["posix.mkdir", "eval", "getattr", "torch.load"])
def test_a_pickle_that_wants_to_run_code_is_refused_before_it_runs_any(
    tmp_path: Path, v8: nn.Module, name: str
) -> None:
    mark = tmp_path / "boom"
    bomb, said = bombs(mark)[name]
    source = save(v8, tmp_path / "hands.pt", extra=bomb)
    with pytest.raises(Permanent, match=rf"is refused: it wants .*{said}.*Nothing of it was run"):
        to_onnx(source, tmp_path / "hands.onnx")
    assert not mark.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hands.pt"]


def test_even_what_ultralytics_would_call_is_only_noted(tmp_path: Path, v8: nn.Module) -> None:
    """A function of its own is on the list of names that a checkpoint may hold, and still is not called."""
    mark = tmp_path / "boom"
    bomb, _ = bombs(mark)["download"]
    read(save(v8, tmp_path / "hands.pt", extra=bomb))
    assert not mark.exists()


def layer(*told: object) -> dict[str, object]:
    return {"head": [list(told), [[15, 18, 21], 1, "Detect", ["nc"]]]}


@pytest.mark.parametrize(
    "changes",
    [
        layer(-1, 1, "torch_safe_load", ["boom.pt"]),
        layer(-1, 1, "nn.Module.register_module_forward_hook", []),
        layer(-1, 1, "Conv", ["__import__('os').mkdir('boom')"]),
        layer(-1, 1, "Conv", [{"a": 1}]),
        layer(-1, 1, "Conv"),
        layer("boom", 1, "Conv", [64]),
        {"backbone": None, "head": None},
        {"nc": "boom"},
        {"scales": {"n": ["boom"]}},
    ],
)
def test_a_description_that_makes_ultralytics_do_other_things_is_refused(
    tmp_path: Path, v8: nn.Module, changes: dict[str, object]
) -> None:
    source = save(described(v8, **changes), tmp_path / "hands.pt")
    with pytest.raises(Permanent, match=r"which YOLOv8 and YOLOv9 have not|in another way than YOLOv8 and YOLOv9 do"):
        build(read(source), source)


def test_an_activation_that_ultralytics_would_evaluate_is_not_passed_on(
    tmp_path: Path, v8: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = save(described(v8, activation="__import__('os').mkdir('boom')"), tmp_path / "hands.pt")
    build(read(source), source)
    assert not (tmp_path / "boom").exists()


def test_a_network_that_is_not_what_its_description_makes_is_refused(tmp_path: Path, v8: nn.Module) -> None:
    more_classes = save(described(v8, nc=7), tmp_path / "classes.pt")
    with pytest.raises(Permanent, match=r"tensors differ, .* first, which is \[3.*\] in the file and \[7.*\] in"):
        build(read(more_classes), more_classes)
    other: Any = deepcopy(v8)
    other.model[0].conv.stride = (1, 1)
    strides = save(other, tmp_path / "strides.pt")
    with pytest.raises(Permanent, match=r"stride of model\.0\.conv is \(1, 1\) in the file, and \(2, 2\)"):
        build(read(strides), strides)
    other = deepcopy(v8)
    other.model[0].act = nn.ReLU()
    acts = save(other, tmp_path / "acts.pt")
    with pytest.raises(Permanent, match=r"model\.0\.act is torch\.nn\.modules\.activation\.ReLU in the file"):
        build(read(acts), acts)


@pytest.mark.parametrize("document", [{}, {"model": {"a": torch.zeros(1)}}, [1], {"model": nn.Linear(2, 2)}])
def test_what_is_no_detector_of_ultralytics_is_refused(tmp_path: Path, document: object) -> None:
    source = tmp_path / "hands.pt"
    torch.save(document, source)
    with pytest.raises(Permanent, match=r"holds .*(no checkpoint of ultralytics|where a detector of ultralytics is)"):
        read(source)


def test_a_network_that_holds_itself_or_lists_nothing_is_refused(tmp_path: Path, v8: nn.Module) -> None:
    source = tmp_path / "hands.pt"
    for change in ("_modules", "_parameters"):
        odd = copy(v8)
        vars(odd)[change] = {"model": odd} if change == "_modules" else None
        torch.save({"model": odd}, source)
        with pytest.raises(Permanent, match=r"is no checkpoint of ultralytics: its (network|model\S+) holds no layers"):
            read(source)


def test_a_damaged_file_is_told_apart_from_a_dangerous_one(tmp_path: Path, v8: nn.Module) -> None:
    source = save(v8, tmp_path / "hands.pt")
    data = source.read_bytes()
    for damaged in (data[: len(data) // 2], b"<html>not found</html>", b""):
        source.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"cannot be read: .*Delete it and download it again"):
            read(source)


def test_without_ultralytics_the_mend_is_named_with_its_licence(
    tmp_path: Path, v8: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(v8, tmp_path / "hands.pt")
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", None)
    with pytest.raises(Permanent, match=r"AGPL-3\.0.*`pip install --no-deps -r requirements-convert\.txt`"):
        to_onnx(source, tmp_path / "hands.onnx")


def test_a_model_of_the_catalogue_is_converted_once_and_pinned(tmp_path: Path, v8: nn.Module) -> None:
    source = save(v8, tmp_path / "hands.pt")
    catalogue = parse(
        f"{{hands: {{title: Hands, role: hand detector, licence: x, commercial: true, memory_bytes: 1, format: pickle, "
        f"hub: a/b, gives: [hands.onnx], files: [{{path: hands.pt, bytes: {source.stat().st_size}}}]}}}}"
    )
    shelf, hands = Shelf(tmp_path / "models"), catalogue["hands"]
    shelf.path(hands, "hands.pt").parent.mkdir(parents=True)
    source.rename(shelf.path(hands, "hands.pt"))
    assert convert(shelf, hands) == ("hands.onnx",)
    assert convert(shelf, hands) == ()
    path = shelf.require(hands)["hands.onnx"]
    assert onnxruntime.InferenceSession(str(path)).get_outputs()[0].shape == [1, 7, 2100]
