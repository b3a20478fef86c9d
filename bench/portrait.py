"""The embedded pipeline at work: python -m bench.portrait.

A warm `portrait` to 4096 x 4096, seconds by step, memory; a batch of twelve scenarios; how soon `--help` answers.
Each job is new: nothing is reused but the identity.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from PIL import Image

from bench.figures import HEADER, Figure
from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.prompts.catalogue import load_catalogue
from tests.photos import astronaut

PORTRAIT_S, HELP_S, MEMORY_GB = 5.0, 0.3, 1.5
RUNS, HELP_RUNS = 5, 10


def measure() -> list[Figure]:
    """Everything; the memory is the peak of this process, so it should do nothing else."""
    with opened() as (generator, photo, folder):
        generator.generate(photo, "consultant", output_path=folder / "warm.png")
        seconds, steps = [], []
        for seed in range(RUNS):
            start = perf_counter()
            result = generator.generate(
                photo, "consultant", settings={"seed": seed}, subject=f"doctor-{seed}", output_path=folder / "one.png"
            )
            seconds.append(perf_counter() - start)
            assert result["metadata"]["reused"] == []
            steps.append(result["metadata"]["timings"])
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        scenarios = list(load_catalogue().scenarios)
        start = perf_counter()
        batch = generator.batch_generate(photo, scenarios, subject="batch", output_dir=folder / "batch")
        batch_seconds = perf_counter() - start
    encoded = sum("identity" not in result["metadata"]["reused"] for result in batch)
    names = list(steps[0])
    return [
        Figure("embedded, warm, one portrait to 4096 x 4096", median(seconds), "s", PORTRAIT_S),
        *(Figure(f"  of which {name}", median(step[name] for step in steps), "s") for name in names),
        Figure("  of which all else", median(seconds) - sum(median(s[n] for s in steps) for n in names), "s"),
        Figure("peak memory", peak_gb, "GB", MEMORY_GB),
        Figure(f"a batch of {len(scenarios)} scenarios, a picture", batch_seconds / len(scenarios), "s"),
        Figure("  identities encoded in it", encoded, "", 1),
        Figure("doctorgen --help", help_seconds(), "s", HELP_S),
    ]


@contextmanager
def opened() -> Iterator[tuple[DoctorImageGenerator, Path, Path]]:
    """A generator with an empty store, a photo, and a folder that will be gone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.png"
        Image.fromarray(astronaut()).save(photo)
        with DoctorImageGenerator(Settings(data_dir=folder / "data")) as generator:
            yield generator, photo, folder


def help_seconds() -> float:
    """The median of a few runs of the installed command."""
    command = [str(Path(sys.executable).with_name("doctorgen")), "--help"]
    taken = []
    for _ in range(HELP_RUNS):
        start = perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(perf_counter() - start)
    return median(taken)


if __name__ == "__main__":
    print(HEADER, *(figure.row() for figure in measure()), sep="\n")
