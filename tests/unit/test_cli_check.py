"""`doctorgen check` looks at an engine as a worker would use it."""

import sys
from pathlib import Path

import pytest

from doctor_image_gen.cli import check
from doctor_image_gen.settings import Settings
from shared.models.device import TorchFacts
from shared.worker.operation import EngineSpec, Params
from tests.unit.typed import Type

MODULE = """
import sys

prepared = [finder for finder in sys.meta_path if finder.__module__ == "shared.models.libraries"]
if not prepared:
    raise ImportError("operator torchvision::nms does not exist")


class Engine:
    def models(self, params):
        return {"weights.onnx": "0" * 64}
"""


def test_libraries_are_prepared_before_an_engine_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker: else the check tells of a fault that no worker has, where torch and torchvision do not match."""
    (tmp_path / "engine_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    unprepared = [finder for finder in sys.meta_path if getattr(finder, "__module__", "") != "shared.models.libraries"]
    monkeypatch.setattr(sys, "meta_path", unprepared)
    assert check._engine(EngineSpec(Params, "engine_of_a_test:Engine"), "flux")(Settings()) == "weights.onnx"  # noqa: SLF001


def test_what_a_gpu_engine_lacks_is_told_before_a_job_finds_it_out(
    type_in: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the weights of the recipe nor the device are seen by importing the engines' code."""
    monkeypatch.setattr(check, "OPERATIONS", {})
    monkeypatch.setattr(check, "torch_facts", lambda: TorchFacts(version="2.9", cuda_build=None, devices=0))
    monkeypatch.setattr(check, "_known_engines", lambda: ["flux", "portable"])
    said = type_in("check", "--engine", "flux")
    assert said.status == 1
    assert "fails device: cuda was asked for, and torch 2.9 is a build without CUDA" in said.out
    assert (
        "fails weights: 13 of 13 models of the recipe portrait are lacking. `doctorgen models check portrait` "
        in said.out
    )
