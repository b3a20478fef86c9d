"""The processes of bench.queue_depth: a gateway that takes its recipe, workers that note when they get and leave steps.

python -m bench.queue_depth_process gateway
python -m bench.queue_depth_process worker STAGE NOTES
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.synthetic import stage
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, gateway_loops
from shared.contracts.recipe import REQUEST_PHOTOS, Recipe, RecipeStep
from shared.contracts.step import StepMessage
from shared.telemetry.logs import log_to_stderr
from shared.worker.main import run
from shared.worker.process import serve
from shared.worker.step import Phase

STAGES = {name: stage(name) for name in ("refine", "qa")}
RECIPE = Recipe(
    name="copy",
    version=1,
    title="Two steps that compute nothing",
    steps=(
        RecipeStep(name="refine", operation="refine.copy", inputs={"data": REQUEST_PHOTOS}),
        RecipeStep(name="qa", operation="qa.copy", inputs={"data": "refine.data"}),
    ),
    result="qa.data",
    verdict="qa.verdict",
)
NOTED: tuple[Phase, ...] = ("received", "published")


@dataclass(frozen=True)
class Note:
    """A worker reached a phase of a step. `at` is in seconds of the system's clock."""

    at: float
    phase: Phase
    stage: str
    worker: int
    job: str


def notes(path: Path) -> Iterator[Note]:
    """All that the workers noted, in order."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield Note(**json.loads(line))


def gateway() -> int:
    """Take jobs in and release them until SIGTERM."""
    log_to_stderr()
    settings = Settings.load()
    connections = Connections.open(settings)
    loops = gateway_loops(settings, connections, STAGES, {RECIPE.name: RECIPE}.__getitem__)
    status = serve(loops, settings.shutdown_grace_s)
    connections.close()
    return status


def worker(name: str, path: str) -> int:
    """Work off one stage until SIGTERM."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def observe(phase: Phase, message: StepMessage) -> None:
        if phase in NOTED:
            note = Note(time.time(), phase, name, os.getpid(), message.job_id)
            os.write(descriptor, json.dumps(asdict(note)).encode() + b"\n")

    return run(STAGES[name], observe=observe)


if __name__ == "__main__":
    sys.exit(gateway() if sys.argv[1] == "gateway" else worker(*sys.argv[2:]))
