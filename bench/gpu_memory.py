"""What the stages of `portrait` have on a GPU at most, at full size: counted, without one.

    python -m bench.gpu_memory [--stages hands,refine] [--out FILE]

The stages' own engines run as in `python -m bench.gpu --recipe portrait`, with the recipe's own parameters but for the
steps, of which one is taken: memory does not grow after the first. Their device is one that has no numbers
(bench/counted.py), so any machine will do; weights are random, and FLUX is made on the device. Four ways: plain;
projections fused and the decoder channels last; crops of one size at once; and all that in 8 bits. Blocks are not
compiled: compiling saves some of the intermediate tensors, so what is counted is the more.

A stage runs twice. What the first run has at most comes of reading the models and of what is done to them once, as
fusing and rounding; the second tells what work needs beside weights. The first row is diffusers' own pipeline.

Counted are torch's tensors. Networks in ONNX keep memory of their own on a GPU, and compute on the CPU here.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from shared.models.libraries import prepare_libraries

prepare_libraries()

from bench import gpu_shelf as shelf
from bench.counted import GPU, counted
from bench.gpu import PLAIN, plain
from bench.gpu_machine import FULL, ID_TOKENS, Machine, models, prompt_of
from bench.gpu_recipe import AT_ONCE, ROOM, coloured, onnx_on_cpu
from bench.gpu_stages import Task, Way, engine_of, side_of, tasks
from shared.flux.speed import Speed
from shared.models.residency import Residency
from shared.worker.operation import Work

COUNTED: Final = replace(FULL, device=GPU)
OURS: Final = Speed(fused_qkv=True, channels_last_vae=True)
WAYS: Final = (
    Way("plain", Speed(), 1),
    Way("fused", OURS, 1),
    Way("fused, crops at once", OURS, AT_ONCE),
    Way("fused, crops at once, fp8", OURS.model_copy(update={"fp8": "weights_and_activations"}), AT_ONCE),
)
COLUMNS: Final = ("stage", "way", "weights, GB", "first run at most, GB", "at most, GB", "beside weights, GB")


class Held(NamedTuple):
    """What a stage has on the device in bytes: what stays there when it is done, and the most, in either run."""

    weights: int
    first: int
    peak: int

    def row(self, stage: str, way: str) -> str:
        """Of the table."""
        sizes = (self.weights, self.first, self.peak, self.peak - self.weights)
        return f"| {stage} | {way} | {' | '.join(f'{size / 1e9:.2f}' for size in sizes)} |"


def held_by(task: Task, way: Way, machine: Machine, folder: Path, photo: bytes) -> Held:
    """One stage on an empty device.

    Raises:
        Exception: what the engine raised; a TypeError or RuntimeError is likely one that a GPU would raise, too.
    """
    inputs = {"image": (photo,), "photos": (photo,), "identity": (shelf.identity(ID_TOKENS, machine.id_width),)}
    fewer = {"steps": 1} if "steps" in task.params else {}
    given = {name: inputs[name] for name in task.inputs if name in inputs}
    borrow = Residency(ROOM)
    with onnx_on_cpu(), counted() as memory:
        engine, peaks = engine_of(task, machine, way, folder, borrow), []
        for _ in range(2):
            memory.restart()
            engine.run(Work(task.parsed(**fewer), given, seed=7))
            gc.collect()
            peaks.append(memory.peak)
        return Held(memory.live, *peaks)


def held_by_diffusers(machine: Machine) -> Held:
    """An image by diffusers' pipeline, as it comes."""
    with counted() as memory:
        transformer, vae = models(machine)
        run, peaks = plain(machine, transformer, vae, prompt_of(machine)), []
        for _ in range(2):
            memory.restart()
            run(1)
            gc.collect()
            peaks.append(memory.peak)
        return Held(memory.live, *peaks)


def main(words: Sequence[str]) -> int:
    """0."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_memory")
    parser.add_argument("--stages", help="these alone, with commas between")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    chosen = parser.parse_args(words)
    photo = coloured(side_of(COUNTED))
    rows = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    with TemporaryDirectory() as name:
        shelf.write(Path(name), full=True)
        if chosen.stages is None:
            rows.append(held_by_diffusers(COUNTED).row("an image", PLAIN))
        for way in WAYS:
            for task in tasks(COUNTED, way):
                if task.name in (chosen.stages or task.name).split(","):
                    rows.append(held_by(task, way, COUNTED, Path(name), photo).row(task.name, way.name))
                    print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join(rows))
    if chosen.out:
        chosen.out.write_text("\n".join(rows) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
