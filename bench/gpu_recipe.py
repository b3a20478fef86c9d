"""The recipe `portrait` on one GPU, stage by stage, with random weights: `python -m bench.gpu --recipe portrait`.

The stages' own engines run, with the recipe's own parameters, all on one coloured picture, and qa on what upscale made
of it: what random weights paint might be black, and then no face would be found in it. Measured are the seconds of a
stage from its input's bytes to its output's (pictures are read and written as PNG), and the peak of torch's memory on
the device meanwhile, three times over:

- plain: no setting of speed, one crop after the other;
- ours: blocks compiled, projections fused, the fastest attention kernel, one crop after the other;
- ours, fp8: as ours, in 8 bits, and crops of one size at once.

Two FLUX transformers are made on the device, FLUX.1 [dev] with PuLID and REAL1SM, of the same shapes; prompts are
random embeddings, as if they had been encoded before. The other networks are as heavy as the published ones, and see
one face and two hands in every picture (bench/gpu_shelf.py). Each stage has run once before it is measured, with two
steps where it samples: that compiles, and is told apart. What would take longer than the time that is left is left out
and named.

identity.encode is no part: a subject is encoded once for all portraits. Nor are loading weights and encoding words.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final
from unittest.mock import patch

import cv2
import numpy as np
import torch

from bench import gpu_shelf as shelf
from bench.gpu_machine import ID_TOKENS, Machine, first_line, kernel_seconds, limit_s, timed
from bench.gpu_report import OURS, OURS_FP8, PLAIN, Measured, Report
from bench.gpu_stages import PAINTED, Task, Way, engine_of, side_of, tasks
from shared.contracts.errors import Permanent
from shared.flux.speed import Speed
from shared.models import onnx
from shared.models.residency import Budget, Residency
from shared.vision.codec import encode_png
from shared.vision.networks import insight
from shared.worker.operation import Work

WARM_STEPS: Final = 2
ROOM: Final = Budget(10**12, 10**12)
"""Everything stays where it is."""
AT_ONCE: Final = 4
"""Crops, where they are batched."""
GUESSED_S: Final = 60.0
"""What a stage may take that has not been seen yet."""
COMPILING_S: Final = 60.0
FIRST: Final = "generate"
LARGER: Final = "upscale"
"""Of the stages."""


def measure_stage(report: Report, way: Way, task: Task, engine: Any, inputs: Mapping[str, tuple[bytes, ...]]) -> Any:
    """One stage: once to warm up, once measured. What it made.

    Raises:
        Exception: what the engine raised.
    """
    machine = report.machine
    given = {name: inputs[name] for name in task.inputs if name in inputs}
    warm = {"steps": min(WARM_STEPS, task.params["steps"])} if "steps" in task.params else {}
    first_s = 0.0
    if warm or not machine.small:  # on a small machine there is nothing to be warmed but what compiles
        first_s = timed(machine, lambda: engine.run(Work(task.parsed(**warm), given, seed=7)))
        report.say(f"{way.name}, {task.name}: warm after {first_s:.1f} s")
    if machine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    params, made = task.parsed(), []
    seconds = timed(machine, lambda: made.append(engine.run(Work(params, given, seed=7))))
    peak = torch.cuda.max_memory_allocated() / 1e9 if machine.device == "cuda" else 0.0
    outcome = made[0]
    pictures = sampled(params, outcome.facts, machine)
    limits = [limit_s(*one) for one in pictures]
    limit = (sum(wide for wide, _ in limits), sum(narrow for _, narrow in limits))
    report.found[task.name, way.name] = Measured(seconds, first_s, peak, _told(pictures), limit)
    report.say(f"{way.name}, {task.name}: {seconds:.2f} s")
    return outcome


def sampled(params: Any, facts: Mapping[str, Any], machine: Machine) -> list[tuple[int, int, int]]:
    """Width, height and steps of each picture that a stage has sampled."""
    if "crops" in facts:
        painted = [crop for crop in facts["crops"] if "painted_px" in crop]
        return [(*crop["painted_px"], crop["steps"]) for crop in painted]
    if "steps" not in facts:
        return []
    side = side_of(machine)
    return [(getattr(params, "width", side), getattr(params, "height", side), facts["steps"])]


def measure_way(report: Report, way: Way, folder: Path, photo: bytes) -> None:
    """All stages on the photo, or on what was enlarged; one that fails or is not there is named, and passed over."""
    machine, borrow = report.machine, Residency(ROOM)
    who = shelf.identity(ID_TOKENS, machine.id_width)
    inputs: dict[str, tuple[bytes, ...]] = {"image": (photo,), "photos": (photo,), "identity": (who,)}
    if way.name not in report.ways:
        report.ways.append(way.name)
    for task in tasks(machine, way):
        if task.name not in report.stages:
            report.stages.append(task.name)
        expected = expected_s(report, way, task)
        if perf_counter() + expected > report.deadline:
            report.note(f"Left out for want of time: {way.name}, {task.name} ({expected:.0f} s).")
            continue
        try:
            engine = engine_of(task, machine, way, folder, borrow)
            outcome = measure_stage(report, way, task, engine, inputs)
        except ModuleNotFoundError as error:
            report.note(f"{task.name} is left out: {error}.")
            continue
        except Exception as error:  # noqa: BLE001 - one stage that fails must not cost what the others show
            report.note(f"{way.name}, {task.name} failed. {first_line(error)}")
            continue
        finally:
            report.write()
        if task.name == LARGER:
            inputs["image"] = (outcome.outputs["image"].data,)


def expected_s(report: Report, way: Way, task: Task) -> float:
    """What a stage may take: what it took plain, and as long as compiling takes."""
    if report.machine.small:
        return 0.0
    before = report.found.get((task.name, PLAIN))
    compiling = COMPILING_S if way.speed.compiled_blocks and task.name in PAINTED else 0.0
    return compiling + (before.seconds + before.first_s if before else GUESSED_S)


@contextmanager
def emptied(machine: Machine) -> Iterator[None]:
    """Afterwards the device is as empty as before."""
    try:
        yield
    finally:
        torch._dynamo.reset()  # noqa: SLF001 - what was compiled is of no more use, and holds on to weights
        gc.collect()
        if machine.device == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def onnx_somewhere(report: Report, folder: Path) -> Iterator[None]:
    """Where onnxruntime cannot use the device, let its networks compute on the CPU, and say so.

    Engines refuse that; but then nothing would be found, nothing painted, and the GPU's share not be measured.
    """
    try:
        onnx.open_session(folder / shelf.HANDS / "hands.onnx", report.machine.device)
    except Permanent as error:
        report.note(f"The networks in ONNX compute on the CPU, and their seconds are the CPU's. {first_line(error)}")
    else:
        yield
        return
    with onnx_on_cpu():
        yield


@contextmanager
def onnx_on_cpu() -> Iterator[None]:
    """Networks in ONNX compute on the CPU, whatever device is asked for."""
    providers = onnx.provider_of
    with (
        patch.object(onnx, "provider_of", lambda _: providers("cpu")),
        patch.object(insight, "provider_of", lambda _: providers("cpu")),
    ):
        yield


def ways(report: Report) -> list[Way]:
    """Those that can be had here, the plain one first."""
    kernels = kernel_seconds(report.machine, report.note)
    fastest = min(kernels.items(), key=lambda one: one[1])[0] if kernels else None
    ours = Speed(fused_qkv=True, channels_last_vae=True, compiled_blocks=True, attention=fastest)
    report.note(f"Ours is {ours.identity()}.")
    found = [Way(PLAIN, Speed(), 1), Way(OURS, ours, 1)]
    if find_spec("torchao") is None:
        report.note("fp8 is left out: torchao is not installed.")
    else:
        kind = "weights" if report.machine.small else "weights_and_activations"
        found.append(Way(OURS_FP8, ours.model_copy(update={"fp8": kind}), AT_ONCE))
    return found


def measure_recipe(machine: Machine, deadline: float, out: Path | None, device_name: str) -> str:
    """The table; it is written to `out` after each stage, too.

    Args:
        machine: `FULL` on a GPU, `SMALL` anywhere.
        deadline: of `perf_counter`; what would go beyond is left out.
        out: a file, or None.
        device_name: for the table's head.
    """
    report = Report(machine, deadline, out, device_name)
    photo = coloured(side_of(machine))
    with TemporaryDirectory() as name:
        shelf.write(Path(name), full=not machine.small)
        report.say("the other networks are written")
        for way in ways(report):
            with emptied(machine), onnx_somewhere(report, Path(name)):
                measure_way(report, way, Path(name), photo)
            if way.speed.attention is not None and (FIRST, way.name) not in report.found:
                other = replace(way, speed=way.speed.model_copy(update={"attention": None}))
                report.note(f"{way.name} once more, with torch's own choice of attention.")
                with emptied(machine), onnx_somewhere(report, Path(name)):
                    measure_way(report, other, Path(name), photo)
    return report.write()


def coloured(side: int) -> bytes:
    """A square picture of soft spots, as easily packed as a photo."""
    spots = np.random.default_rng(0).integers(40, 216, (32, 32, 3)).astype(np.uint8)
    return encode_png(np.asarray(cv2.resize(spots, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8))


def _told(pictures: Sequence[tuple[int, int, int]]) -> str:
    counted = {one: pictures.count(one) for one in pictures}
    parts = [
        f"{count} x " * (count > 1) + f"{width} x {height}, {steps} steps"
        for (width, height, steps), count in counted.items()
    ]
    return f" ({'; '.join(parts)})" if parts else ""
