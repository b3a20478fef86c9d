"""The recipe `portrait` on one GPU, stage by stage, with random weights: `python -m bench.gpu --recipe portrait`.

The stages' own engines run, with the recipe's own parameters, each on the picture that the one before it made.
Measured are the seconds of a stage from its input's bytes to its output's (pictures are read and written as PNG), and
the peak of torch's memory on the device meanwhile, three times over:

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
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
import yaml

from bench import gpu_shelf as shelf
from bench.figures import HEADER, Figure
from bench.gpu_machine import (
    AIMED_AT,
    FULL,
    ID_TOKENS,
    SMALL,
    Machine,
    first_line,
    kernel_seconds,
    limit_s,
    models,
    prompt_of,
    see_people,
    timed,
)
from doctor_image_gen import recipes
from services.generate.stage import STAGE as GENERATE
from services.qa.stage import STAGE as QA
from services.refine.stage import STAGE as REFINE
from services.swap.stage import STAGE as SWAP
from services.upscale.stage import STAGE as UPSCALE
from shared.contracts.errors import Permanent
from shared.flux.painter import Painter
from shared.flux.speed import Speed
from shared.flux.studio import Studio
from shared.flux.text import PromptEmbedding
from shared.models import onnx
from shared.models.residency import Budget, Residency, Smaller
from shared.vision.codec import encode_png
from shared.vision.networks import insight
from shared.worker.operation import EngineSpec, Work

RECIPE: Final = "portrait"
PLAIN, OURS, OURS_FP8 = "plain", "ours", "ours, fp8"
AIM_S: Final = {OURS: 40.0, OURS_FP8: 20.0}
"""On the machine that it is meant for."""
WARM_STEPS: Final = 2
ROOM: Final = Budget(10**12, 10**12)
"""Everything stays where it is."""
AT_ONCE: Final = 4
"""Crops, where they are batched."""
GUESSED_S: Final = 60.0
"""What a stage may take that has not been seen yet."""
COMPILING_S: Final = 60.0
SMALL_SIDE: Final = 128

RECIPE_FILE: Final = Path(recipes.__file__).with_name(f"{RECIPE}.yaml")
STAGES: Final = {stage.name: stage for stage in (GENERATE, SWAP, REFINE, UPSCALE, QA)}
CROPS: Final = frozenset({"hands", "face_detail"})
PAINTED: Final = CROPS | {"generate", "refine"}

OWN: Final[dict[str, dict[str, Any]]] = {
    "generate": {"model": shelf.FLUX, "identity_model": shelf.PULID},
    "hands": {"model": shelf.FLUX, "detector": shelf.HANDS},
    "face": {"model": shelf.SWAPPER, "encoder": shelf.PACK, "restorer": shelf.RESTORER},
    "face_detail": {
        "model": shelf.FLUX,
        "detector": shelf.FACES,
        "identity_model": shelf.PULID,
        "encoder": shelf.ENCODER,
    },
    "refine": {"model": shelf.REAL1SM},
    "upscale": {},
    "upscale by network": {"method": "network", "upscaler": shelf.UPSCALER},
    "qa": {"detector": shelf.YUNET, "recogniser": shelf.RECOGNISER, "hand_detector": shelf.HANDS},
}
"""What stands in place of the recipe's models, stage by stage. One stage is measured beside the recipe's own."""
FIRST: Final = "generate"
BESIDE: Final = "upscale by network"
"""No part of the sum."""
STEP_OF: Final = {BESIDE: "upscale"}
SMALLER: Final[dict[str, dict[str, Any]]] = {
    "generate": {"width": SMALL_SIDE, "height": SMALL_SIDE, "steps": 3},
    "hands": {"steps": 3, "guide_size": 64, "max_size": 64},
    "face": {},
    "face_detail": {"steps": 3, "guide_size": 64, "max_size": 64},
    "refine": {"steps": 3},
    "upscale": {"width": 512, "height": 512},
    BESIDE: {"width": 512, "height": 512},
    "qa": {"width": 512, "height": 512},
}
"""What is other than in the recipe in a small run."""


@dataclass(frozen=True)
class Task:
    """A stage of the recipe.

    Attributes:
        name: the recipe's step.
        spec: its engine.
        params: as the recipe has them, with our models.
        inputs: names of what it is given.
    """

    name: str
    spec: EngineSpec
    params: Mapping[str, Any]
    inputs: tuple[str, ...]

    def parsed(self, **more: Any) -> Any:
        """The parameters as the engine's model."""
        return self.spec.parse({**self.params, **more}, self.name)


@dataclass(frozen=True)
class Way:
    """One way to run them.

    Attributes:
        name: of it.
        speed: settings.
        max_batch: crops at once.
    """

    name: str
    speed: Speed
    max_batch: int


@dataclass(frozen=True)
class Measured:
    """A stage in one way.

    Attributes:
        seconds: it took.
        first_s: the run before it took, which compiles.
        peak_gb: of torch's memory on the device.
        told: what it was about: steps, crops.
        limit: the arithmetic limit of its sampling in seconds, in bf16 and in fp8.
    """

    seconds: float
    first_s: float
    peak_gb: float
    told: str
    limit: tuple[float, float]


@dataclass
class Report:
    """What has been found, and what is left of the time."""

    machine: Machine
    deadline: float
    out: Path | None
    device_name: str
    found: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By stage and way."""
    ways: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line of progress, with the seconds that are left."""
        print(f"[{self.deadline - perf_counter():5.0f} s left] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What a reader of the table must know."""
        self.say(text)
        if text not in self.notes:
            self.notes.append(text)

    def total(self, way: str) -> float | None:
        """The recipe's seconds; None where a stage is missing."""
        mine = [self.found.get((stage, way)) for stage in self.stages if stage != BESIDE]
        known = [one.seconds for one in mine if one is not None]
        return sum(known) if known and len(known) == len(mine) else None

    def write(self) -> str:
        """The table as it stands; to the file, too."""
        columns = [f"{way}, s | first run, s | peak, GB" for way in self.ways]
        lines = [
            f"{self.device_name}, torch {torch.__version__}\n",
            f"| stage | {' | '.join(columns)} |",
            f"|---{'|---' * 3 * len(self.ways)}|",
            *map(self._row, self.stages),
            f"| **the recipe** | {' | '.join(_total(self.total(way)) for way in self.ways)} |\n",
            HEADER,
            *(figure.row() for figure in self._figures()),
            *(f"\n{note}" for note in self.notes),
        ]
        table = "\n".join(lines)
        if self.out:
            self.out.write_text(table + "\n", "utf-8")
        return table

    def _row(self, stage: str) -> str:
        mine = [self.found.get((stage, way)) for way in self.ways]
        told = next((one.told for one in mine if one is not None), "")
        beside = " (no part of the sum)" if stage == BESIDE else ""
        return f"| {stage}{told}{beside} | {' | '.join(map(self._cells, mine))} |"

    def _cells(self, one: Measured | None) -> str:
        if one is None:
            return "left out | | "
        peak = f"{one.peak_gb:.1f}" if self.machine is FULL else ""
        return f"{one.seconds:.2f} | {one.first_s:.2f} | {peak}"

    def _figures(self) -> Iterator[Figure]:
        """The recipe's seconds beside what is aimed at, how far the settings lead, and what arithmetic allows."""
        plain = self.total(PLAIN)
        for way in self.ways:
            total = self.total(way)
            if total is None:
                continue
            yield Figure(f"the recipe, {way}", total, "s", AIM_S.get(way) if AIMED_AT in self.device_name else None)
            if plain is not None and way != PLAIN:
                yield Figure(f"the recipe: {PLAIN} / {way}", plain / total, "")
            if self.machine is FULL:
                limits = [self.found[stage, way].limit for stage in self.stages]
                limit = sum(narrow if way == OURS_FP8 else wide for wide, narrow in limits)
                yield Figure(f"of it, the arithmetic limit of sampling, {way}", limit, "s")


def _total(seconds: float | None) -> str:
    return " | | " if seconds is None else f"{seconds:.2f} | | "


class MadeThere:
    """A painter of random weights as a Resident: made on the device, and never anywhere else."""

    bytes = 0
    """Nothing is put out for it."""
    smaller: Sequence[Smaller] = ()

    def __init__(self, name: str, make: Callable[[], Painter]) -> None:
        self.name = name
        self._make = make

    def load(self) -> Painter:
        """Make it."""
        return self._make()

    def to_device(self) -> None:
        """It is there."""

    def to_host(self) -> None:
        """It stays."""

    def drop(self) -> None:
        """Whoever holds it lets go of it."""


class RandomStudio(Studio):
    """A Studio whose weights are made on the device and whose words are random numbers; the rest is its own.

    Args:
        machine: where, and how large.
        folder: of the other models.
        borrow: where painters are lent.
        speed: how they are run.
    """

    def __init__(self, machine: Machine, folder: Path, borrow: Residency, speed: Speed) -> None:
        super().__init__(folder, machine.device, machine.dtype, borrow, speed, machine.compiler)
        self._machine = machine
        self._words: PromptEmbedding | None = None

    def prompt(self, model: str, words: str) -> PromptEmbedding:
        """The same random embedding for any words, as if it had been encoded before."""
        del model, words
        if self._words is None:
            self._words = prompt_of(self._machine)
        return self._words

    def _parts(self, model: str) -> Any:
        """There are no files."""

    def _painter(self, model: str, key: str) -> Any:
        identity_model = key.rsplit(", ", 1)[1]

        def make() -> Painter:
            transformer, vae = models(self._machine)
            attentions = see_people(self._machine, transformer) if identity_model else []
            return Painter(transformer, vae, attentions, None)

        return MadeThere(model, make)


def tasks(machine: Machine, way: Way) -> list[Task]:
    """The recipe's stages for one way; and the one beside them, behind the one that it might replace."""
    steps = {step["name"]: step for step in yaml.safe_load(RECIPE_FILE.read_text("utf-8"))["steps"]}
    made = []
    for name, own in OWN.items():
        step = steps[STEP_OF.get(name, name)]
        stage = STAGES[step["operation"].partition(".")[0]]
        operation = stage.operation(step["operation"])
        if operation is None:
            raise LookupError(f"{RECIPE} has {step['operation']}, which its stage does not know")
        params = {**step.get("params", {}), **step.get("engines", {}).get("flux", {}), **own}
        if machine is SMALL:
            params |= {key: small for key, small in SMALLER[name].items() if key not in own}
        if name in CROPS:
            params["max_batch"] = way.max_batch
        made.append(Task(name, operation.engines["flux"], params, (*operation.inputs, *operation.optional)))
    return made


def engine_of(task: Task, machine: Machine, way: Way, folder: Path, borrow: Residency) -> Any:
    """The stage's own engine, with random weights for FLUX.

    Raises:
        ModuleNotFoundError: there is none yet.
    """
    module, _, name = task.spec.factory.partition(":")
    make = getattr(import_module(module), name)
    if task.name not in PAINTED:
        return make(folder, machine.device, borrow)
    engine = make(folder, machine.device, borrow, way.speed)
    studio = RandomStudio(machine, folder, borrow, way.speed)
    if task.name in CROPS:
        engine._detailer.studio = studio  # noqa: SLF001 - it has its words and weights from here
    else:
        engine._studio = studio  # noqa: SLF001
    return engine


def measure_stage(report: Report, way: Way, task: Task, engine: Any, inputs: Mapping[str, tuple[bytes, ...]]) -> Any:
    """One stage: once to warm up, once measured. What it made.

    Raises:
        Exception: what the engine raised.
    """
    machine = report.machine
    given = {name: inputs[name] for name in task.inputs if name in inputs}
    warm = {"steps": min(WARM_STEPS, task.params["steps"])} if "steps" in task.params else {}
    first_s = 0.0
    if machine is FULL or warm:  # on a small machine there is nothing to be warmed but what compiles
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


def side_of(machine: Machine) -> int:
    """Pixels of the picture's side before it is enlarged."""
    return machine.side if machine is FULL else SMALL_SIDE


def measure_way(report: Report, way: Way, folder: Path, photo: bytes) -> None:
    """All stages, each on what the one before it made; one that fails or is not there is named, and passed over."""
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
        if "image" in outcome.outputs and task.name != BESIDE:
            inputs["image"] = (outcome.outputs["image"].data,)


def expected_s(report: Report, way: Way, task: Task) -> float:
    """What a stage may take: what it took plain, and as long as compiling takes."""
    if report.machine is SMALL:
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
    providers, app = onnx.provider_of, insight.open_app
    with (
        patch.object(onnx, "provider_of", lambda _: providers("cpu")),
        patch.object(insight, "open_app", lambda place, _, *more: app(place, "cpu", *more)),
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
        kind = "weights_and_activations" if report.machine is FULL else "weights"
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
    side = side_of(machine)
    photo = encode_png(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    with TemporaryDirectory() as name:
        shelf.write(Path(name), full=machine is FULL)
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


def _told(pictures: Sequence[tuple[int, int, int]]) -> str:
    counted = {one: pictures.count(one) for one in pictures}
    parts = [
        f"{count} x " * (count > 1) + f"{width} x {height}, {steps} steps"
        for (width, height, steps), count in counted.items()
    ]
    return f" ({'; '.join(parts)})" if parts else ""
