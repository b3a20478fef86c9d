"""FLUX.1-dev at full size with random weights, diffusers as it comes beside this project's settings, in one run.

    python -m bench.gpu [--recipe portrait] [--small] [--repeats N] [--minutes M] [--out FILE]

Weights are made on the device, prompt embeddings are random: neither changes how long anything takes. Measured are the
seconds of a step and of an image (decoding included) at 20, 28 and 100 steps, the peak of the device's memory, what
PuLID adds to a step, and each rate beside the arithmetic limit of 74.38 TFLOP a step at 1024 x 1024 with 512 text
tokens (docs/models.md): at 790 TFLOP/s in bf16, and with the layers' share of it, 59.49, at 1500 in fp8. fp8 is
measured where torchao is installed. The first-block cache is not: what it skips depends on real weights.

Each way has models of its own, so that none inherits what another did to them. One that fails is named and the others
go on; what would take longer than the time that is left is left out and named, too; the table is written after each.
`--small` runs the same code on tiny models and any machine: it shows that the harness works, and its seconds mean
nothing. `--recipe portrait` measures the stages of that recipe instead: see bench/gpu_recipe.py.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.figures import HEADER, Figure
from shared.models.libraries import prepare_libraries

prepare_libraries()

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from bench.gpu_machine import (
    AIMED_AT,
    BF16_LIMIT_S,
    FP8_LIMIT_S,
    FULL,
    SMALL,
    Machine,
    first_line,
    identity_of,
    kernel_seconds,
    made_there,
    models,
    prompt_of,
    timed,
)
from shared.flux.decode import decode
from shared.flux.denoise import Branch, alone, denoise
from shared.flux.latents import noise
from shared.flux.schedules import sigmas
from shared.flux.speed import Attention, Speed, speed_up
from shared.flux.text import PromptEmbedding

PULID_BOUND = 1.05
TIMES_BOUND = 2.5
GUIDANCE = 3.5
WARM_STEPS = 2
WAY_S = 130.0
"""What a way takes about, its models made and compiled and each image measured once."""
PLAIN, UNSET, OURS, OURS_FP8 = "diffusers as it comes", "our loop, nothing set", "ours", "ours, fp8"

Run = Callable[[int], None]


@dataclass
class Way:
    """What was measured of one way to run the models: the fastest seconds by number of steps, and the rest."""

    name: str
    image_s: dict[int, float] = field(default_factory=dict)
    pulid: float | None = None
    ready_s: float = 0.0
    peak_gb: float = 0.0


@dataclass
class Bench:
    """A run: what is left of its time, and what it has found."""

    machine: Machine
    repeats: int
    deadline: float
    out: Path | None
    device_name: str
    figures: list[Figure] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    to_come: int = 0
    """How many ways there are after the present one."""
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line of progress, with the seconds that are left."""
        print(f"[{self.deadline - perf_counter():5.0f} s left] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What a reader of the table must know."""
        self.say(text)
        self.notes.append(text)

    def has_time_for(self, seconds: float, what: str, *, again: bool = False) -> bool:
        """Whether so much is left; if not it is noted what is left out.

        What has been measured once is measured again only if the ways to come lose nothing by it.
        """
        kept = self.to_come * WAY_S if again else 0.0
        fits = perf_counter() + seconds + kept < self.deadline
        if not fits:
            self.note(f"Left out for want of time: {what} ({seconds:.0f} s).")
        return fits

    def write(self) -> str:
        """The table as it stands; to the file, too."""
        rows = [figure.row() for figure in (*self.figures, *reported(self))]
        notes = [f"\n{note}" for note in self.notes]
        table = "\n".join([f"{self.device_name}, torch {torch.__version__}\n", HEADER, *rows, *notes])
        if self.out:
            self.out.write_text(table + "\n", "utf-8")
        return table


def plain(machine: Machine, transformer: Any, vae: Any, prompt: PromptEmbedding) -> Run:
    """An image by diffusers' pipeline, with nothing set."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)

    def run(steps: int) -> None:
        pipeline(
            prompt_embeds=prompt.sequence,
            pooled_prompt_embeds=prompt.pooled,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            height=machine.side,
            width=machine.side,
            generator=torch.Generator().manual_seed(1),
        )

    return run


def sampling(machine: Machine, transformer: Any, prompt: PromptEmbedding, around: Any = alone) -> Callable[[int], Any]:
    """The latent of an image by our own loop."""
    channels = transformer.config.in_channels // 4

    def run(steps: int) -> Any:
        start = noise(machine.side, machine.side, 1, channels).to(machine.device)
        return denoise(transformer, start, sigmas("simple", steps).tolist(), Branch(prompt, around), GUIDANCE)

    return run


def measure_images(bench: Bench, way: Way, run: Run) -> None:
    """Warm up, then the fastest of so many images for each number of steps, as long as there is time."""
    few, aim, many = bench.machine.steps
    way.ready_s = timed(bench.machine, lambda: run(WARM_STEPS))
    bench.say(f"{way.name}: warm after {way.ready_s:.1f} s")
    step_s = timed(bench.machine, lambda: run(WARM_STEPS)) / WARM_STEPS
    for repeat in range(bench.repeats):
        for steps in (aim, few, many):
            what = f"{way.name}, {steps} steps" + (f", again ({repeat + 1})" if repeat else "")
            if not bench.has_time_for(steps * step_s, what, again=repeat > 0):
                continue
            taken = timed(bench.machine, lambda steps=steps: run(steps))  # type: ignore[misc]
            way.image_s[steps] = min(taken, way.image_s.get(steps, taken))
            step_s = taken / steps
            bench.say(f"{what}: {taken:.2f} s")


def measure_pulid(bench: Bench, way: Way, without: Callable[[int], Any], seen: Callable[[int], Any]) -> None:
    """What PuLID adds: runs with and without somebody to be seen, in turns."""
    steps = bench.machine.steps[1]
    if not bench.has_time_for(4 * steps * 2 * BF16_LIMIT_S + way.ready_s / 2, f"{way.name}, what PuLID adds"):
        return
    for run in (without, seen):
        run(WARM_STEPS)
    rounds = [[timed(bench.machine, lambda run=run: run(steps)) for run in (without, seen)] for _ in range(2)]  # type: ignore[misc]
    least = [min(column) for column in zip(*rounds, strict=True)]
    way.pulid = least[1] / least[0]
    bench.say(f"{way.name}: {steps} steps {least[0]:.2f} s, with PuLID {least[1]:.2f} s")


def measure_plain(bench: Bench, way: Way) -> None:
    """Diffusers' pipeline."""
    transformer, vae = models(bench.machine)
    measure_images(bench, way, plain(bench.machine, transformer, vae, prompt_of(bench.machine)))


def measure_unset(bench: Bench, way: Way) -> None:
    """Our loop without any setting, for what PuLID adds to it."""
    transformer, _ = models(bench.machine)
    prompt = prompt_of(bench.machine)
    call = identity_of(bench.machine, transformer)
    measure_pulid(
        bench,
        way,
        sampling(bench.machine, transformer, prompt),
        sampling(bench.machine, transformer, prompt, call.around),
    )


def measure_ours(bench: Bench, way: Way, speed: Speed) -> None:
    """Our loop with settings, and what PuLID adds to it then."""
    transformer, vae = models(bench.machine)
    prompt = prompt_of(bench.machine)
    call = identity_of(bench.machine, transformer)
    speed_up(transformer, vae, speed, bench.machine.compiler)
    without = sampling(bench.machine, transformer, prompt)

    def image(steps: int) -> None:
        decode(vae, without(steps))

    measure_images(bench, way, image)
    measure_pulid(bench, way, without, sampling(bench.machine, transformer, prompt, call.around))


def fastest_kernel(bench: Bench) -> Attention:
    """Of the attention kernels that there are here, on tensors as large as the model's."""
    found = kernel_seconds(bench.machine, bench.note)
    bench.figures += [Figure(f"attention by {kernel}", seconds * 1000, "ms") for kernel, seconds in found.items()]
    return min(found, key=lambda kernel: found[kernel])


def measure_product(bench: Bench) -> None:
    """The rate of one large product: how the limit's 790 TFLOP/s stand on this machine, today."""
    side = 64 if bench.machine.small else 8192
    with made_there(bench.machine):
        one, other = torch.randn(side, side), torch.randn(side, side)
    one @ other
    seconds = min(timed(bench.machine, lambda: one @ other) for _ in range(10))
    bench.figures.append(
        Figure(f"product of {side} x {side} in {bench.machine.dtype}", 2e-12 * side**3 / seconds, "TFLOP/s")
    )


def reported(bench: Bench) -> Iterator[Figure]:
    """Seconds, memory and ratios of what has been measured; bounds on the machine that they are meant for."""
    few, aim, many = bench.machine.steps
    full, aimed = not bench.machine.small, AIMED_AT in bench.device_name
    limits = {OURS_FP8: FP8_LIMIT_S}
    aims = {OURS: 3.3, OURS_FP8: 2.2} if aimed else {}
    for way in bench.ways:
        for steps in sorted(way.image_s):
            yield Figure(f"{way.name}, an image of {steps} steps", way.image_s[steps], "s")
        if few in way.image_s and many in way.image_s:
            step_s = (way.image_s[many] - way.image_s[few]) / (many - few)
            yield Figure(f"{way.name}, a step", step_s * 1000, "ms")
            yield Figure(f"{way.name}, {aim} steps alone", step_s * aim, "s", aims.get(way.name))
            if full:
                yield Figure(f"{way.name}, of the arithmetic limit", limits.get(way.name, BF16_LIMIT_S) / step_s, "")
        if way.pulid is not None:
            bound = PULID_BOUND if aimed and way.name != OURS_FP8 else None
            yield Figure(f"{way.name}, a step with PuLID / without", way.pulid, "", bound)
        if way.ready_s:
            yield Figure(f"{way.name}, the first image takes longer by", way.ready_s, "s")
        if full:
            yield Figure(f"{way.name}, peak memory", way.peak_gb, "GB")
    by_name = {way.name: way.image_s for way in bench.ways}
    for name in (OURS, OURS_FP8):
        if aim in by_name.get(PLAIN, {}) and aim in by_name.get(name, {}):
            times = by_name[PLAIN][aim] / by_name[name][aim]
            bound = TIMES_BOUND if aimed and name == OURS_FP8 else None
            yield Figure(f"an image of {aim} steps: {PLAIN} / {name}", times, "", bound, at_least=True)


def tried(bench: Bench, name: str, measure: Callable[[Bench, Way], None], to_come: int) -> bool:
    """One way, whatever becomes of it; the device is as empty after it as before. Whether it went well."""
    way, failed, bench.to_come = Way(name), False, to_come
    bench.say(f"{name}: begins")
    if bench.machine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        measure(bench, way)
    except Exception as error:  # noqa: BLE001 - one way that fails must not cost what the others have shown
        bench.note(f"{name} failed. {first_line(error)}")
        failed = True
    if bench.machine.device == "cuda":
        way.peak_gb = torch.cuda.max_memory_allocated() / 1e9
    bench.ways.append(way)
    torch._dynamo.reset()  # noqa: SLF001 - what was compiled is of no more use, and holds on to weights
    gc.collect()
    if bench.machine.device == "cuda":
        torch.cuda.empty_cache()
    bench.write()
    return not failed


def measure_all(bench: Bench) -> None:
    """What is to be compared first, in the order of what matters most."""
    measure_product(bench)
    settings = Speed(
        fused_qkv=True,
        channels_last_vae=True,
        compiled_blocks=True,
        attention=fastest_kernel(bench),
    )
    bench.note(f"Ours is {settings.identity()}.")
    tried(bench, PLAIN, measure_plain, to_come=3)
    if not tried(bench, OURS, lambda bench, way: measure_ours(bench, way, settings), to_come=2):
        settings = settings.model_copy(update={"attention": None})
        tried(bench, OURS, lambda bench, way: measure_ours(bench, way, settings), to_come=2)
    if find_spec("torchao") is None:
        bench.note("fp8 is left out: torchao is not installed.")
    else:
        kind = "weights" if bench.machine.small else "weights_and_activations"
        narrow = settings.model_copy(update={"fp8": kind})
        tried(bench, OURS_FP8, lambda bench, way: measure_ours(bench, way, narrow), to_come=0)
    tried(bench, UNSET, measure_unset, to_come=0)


def main(words: Sequence[str]) -> int:
    """0; 2 where there is no GPU and none was renounced."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--recipe", choices=["portrait"], help="the stages of this recipe, in place of single images")
    parser.add_argument("--small", action="store_true", help="tiny models, any machine")
    parser.add_argument("--repeats", type=int, default=2, help="of each image, the fastest counts")
    parser.add_argument("--minutes", type=float, default=8.0, help="what would go beyond is left out")
    parser.add_argument("--out", type=Path, help="write the table here, too, and as it grows")
    chosen = parser.parse_args(words)
    if not chosen.small and not torch.cuda.is_available():
        print("torch sees no CUDA device. Run it on a machine with a GPU, or give --small.", file=sys.stderr)
        return 2
    machine = SMALL if chosen.small else FULL
    if chosen.small:
        torch.set_num_threads(1)  # tiny models only wait for more
    device_name = "CPU, tiny models: these seconds mean nothing" if chosen.small else torch.cuda.get_device_name()
    deadline = perf_counter() + 60 * chosen.minutes
    if chosen.recipe is not None:
        # it needs more libraries: insightface, onnxruntime, spandrel
        from bench.gpu_recipe import measure_recipe  # noqa: PLC0415

        print(measure_recipe(machine, deadline, chosen.out, device_name))
        return 0
    bench = Bench(machine, chosen.repeats, deadline, chosen.out, device_name)
    measure_all(bench)
    print(bench.write())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
