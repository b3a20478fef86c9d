"""The GPU's benchmark of a recipe, on tiny models: the stages' own engines run, and the table says what was found."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bench import gpu, gpu_shelf
from bench.gpu_machine import BF16_LIMIT_S, FP8_LIMIT_S, FULL, SMALL, limit_s
from bench.gpu_recipe import coloured, expected_s, measure_way, onnx_somewhere, sampled
from bench.gpu_report import BESIDE, OURS, OURS_FP8, PLAIN, Measured, Report
from bench.gpu_stages import OWN, SMALL_SIDE, Way, tasks
from shared.contracts.errors import Permanent
from shared.flux.speed import Speed
from shared.models import onnx as onnx_models
from shared.models.onnx import open_session
from shared.vision.networks import insight, tiny_swapper


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        gpu_shelf.write(Path(name), full=False)
        yield Path(name)


def report(machine: object = SMALL, seconds: float = 600, device_name: str = "a device") -> Report:
    return Report(machine, perf_counter() + seconds, None, device_name)  # type: ignore[arg-type]


def test_all_stages_run_and_are_told(folder: Path, tmp_path: Path) -> None:
    """With PuLID, both hands at once and one face found; the file holds what is printed."""
    found = report()
    found.out = tmp_path / "gpu.md"
    measure_way(found, Way(OURS, Speed(fused_qkv=True), 4), folder, coloured(SMALL_SIDE))
    assert found.notes == []
    assert found.stages == list(OWN)
    assert [found.found[stage, OURS].told for stage in ("generate", "hands", "refine", "qa")] == [
        " (128 x 128, 3 steps)", " (2 x 64 x 64, 3 steps)", " (128 x 128, 3 steps)", "",
    ]  # fmt: skip
    assert found.found["face_detail", OURS].told
    table = found.write()
    assert found.out.read_text("utf-8") == table + "\n"
    assert all(f"| {stage}" in table for stage in OWN)
    wanted = sum(one.seconds for (stage, _), one in found.found.items() if stage != BESIDE)
    assert found.total(OURS) == pytest.approx(wanted)


def test_a_stage_that_fails_or_is_not_there_is_named_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And there is no sum then."""
    ours = tasks(SMALL, Way(PLAIN, Speed(), 1))
    few = [one for one in ours if one.name in {"upscale", "qa", BESIDE}]
    missing = type(few[0].spec)(few[0].spec.params, "services.nowhere:Nothing")
    monkeypatch.setattr(
        "bench.gpu_recipe.tasks",
        lambda *_: [type(one)(one.name, missing, one.params, one.inputs) if one.name == "qa" else one for one in few],
    )
    found = report()
    measure_way(found, Way(PLAIN, Speed(), 1), folder, b"no picture")
    assert [note.partition(".")[0] for note in found.notes] == [
        "plain, upscale failed", f"plain, {BESIDE} failed", "qa is left out: No module named 'services",
    ]  # fmt: skip
    assert found.total(PLAIN) is None
    assert "| qa | left out | |" in found.write()


def test_what_would_take_longer_than_the_time_that_is_left_is_left_out(folder: Path) -> None:
    found = report(FULL, seconds=1.0)
    measure_way(found, Way(PLAIN, Speed(), 1), folder, coloured(SMALL_SIDE))
    assert found.found == {}
    assert len(found.notes) == len(OWN)
    assert found.notes[0] == "Left out for want of time: plain, generate (60 s)."


def test_what_compiles_is_expected_to_take_longer() -> None:
    found = report(FULL)
    found.found["generate", PLAIN] = Measured(20.0, 5.0, 30.0, "", (9.4, 5.9))
    (generate, *_) = tasks(FULL, Way(PLAIN, Speed(), 1))
    assert expected_s(found, Way(PLAIN, Speed(), 1), generate) == 25.0
    assert expected_s(found, Way(OURS, Speed(compiled_blocks=True), 1), generate) == 85.0


def test_full_size_is_the_recipe_itself() -> None:
    """But for the names of models, and how many crops are painted at once."""
    by_name = {one.name: one.parsed() for one in tasks(FULL, Way(OURS_FP8, Speed(), 4))}
    assert (by_name["generate"].steps, by_name["generate"].width, by_name["generate"].scheduler) == (100, 1024, "beta")
    assert (by_name["hands"].steps, by_name["hands"].denoise, by_name["hands"].max_batch) == (50, 0.25, 4)
    assert (by_name["face_detail"].steps, by_name["face_detail"].denoise) == (150, 0.66)
    assert (by_name["refine"].steps, by_name["refine"].scheduler) == (35, "karras")
    assert (by_name["upscale"].method, by_name["upscale"].width) == ("lanczos", 4096)
    assert (by_name[BESIDE].method, by_name["qa"].width) == ("network", 4096)


def test_the_figures_stand_beside_what_is_aimed_at() -> None:
    """On the machine that it is meant for; elsewhere nothing is promised."""
    here = report(FULL, device_name="NVIDIA H200")
    here.ways, here.stages = [PLAIN, OURS, OURS_FP8], ["generate", BESIDE]
    for way, seconds in ((PLAIN, 90.0), (OURS, 39.0), (OURS_FP8, 21.0)):
        here.found["generate", way] = Measured(seconds, 1.0, 40.0, "", (9.4, 5.9))
        here.found[BESIDE, way] = Measured(5.0, 1.0, 40.0, "", (0.0, 0.0))
    table = here.write()
    assert "| the recipe, ours | 39 s | ≤ 40 s | held |" in table
    assert "| the recipe, ours, fp8 | 21 s | ≤ 20 s | **not held** |" in table
    assert "| of it, the arithmetic limit of sampling, ours, fp8 | 5.9 s |  |  |" in table
    here.device_name = "another GPU"
    assert "≤" not in here.write()


def test_the_arithmetic_limit_of_a_crop() -> None:
    """A megapixel's is the step's of docs/models.md; a smaller picture has fewer tokens, and less attention still."""
    assert limit_s(1024, 1024, 1) == pytest.approx((BF16_LIMIT_S, FP8_LIMIT_S))
    assert limit_s(1024, 1024, 10)[0] == pytest.approx(10 * BF16_LIMIT_S)
    tokens = 512 + 512 * 512 / 256
    wanted = (59.49 * tokens / 4608 + 14.89 * (tokens / 4608) ** 2) / 790
    assert limit_s(512, 512, 1)[0] == pytest.approx(wanted)


def test_crops_that_were_left_alone_were_not_sampled() -> None:
    crops = [{"painted_px": [96, 64], "steps": 3}, {"skipped": "prompt"}]
    assert sampled(None, {"crops": crops}, SMALL) == [(96, 64, 3)]
    assert sampled(None, {"verdict": "pass"}, SMALL) == []


def test_ballast_changes_no_answer(tmp_path: Path) -> None:
    """A swapper loaded down with as many weights as were asked for says what it said; its matrix is still the last."""
    tiny_swapper.write(tmp_path)
    path = tmp_path / tiny_swapper.SWAPPER
    random = np.random.default_rng(0)
    given = {"target": random.random((1, 3, 128, 128), np.float32), "source": random.random((1, 512), np.float32)}
    before, size = open_session(path, "cpu").run(None, given)[0], path.stat().st_size
    gpu_shelf.load_down(path, gpu_shelf.Weight(2.0, 0.1))
    assert path.stat().st_size - size == pytest.approx(4 * 2e6, rel=0.2)
    assert np.array_equal(open_session(path, "cpu").run(None, given)[0], before)
    assert onnx.load(path).graph.initializer[-1].name == "emap"


def test_where_onnxruntime_cannot_use_the_gpu_its_networks_compute_on_the_cpu(folder: Path) -> None:
    """Engines refuse that; the benchmark says so, and measures the rest. Afterwards it is refused again."""
    if onnx_models.CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime can use a GPU here")
    found = report(FULL)
    detector = folder / gpu_shelf.HANDS / "hands.onnx"
    with onnx_somewhere(found, folder):
        assert onnx_models.open_session(detector, "cuda").get_providers() == [onnx_models.CPU]
        insight.open_app(folder / gpu_shelf.PACK, "cuda", insight.BUFFALO_L)
    assert found.notes[0].startswith("The networks in ONNX compute on the CPU, and their seconds are the CPU's.")
    with pytest.raises(Permanent):
        onnx_models.open_session(detector, "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which it would use for minutes")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--recipe", "portrait"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
