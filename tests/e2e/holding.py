"""A worker that holds still the first time it reaches a given point of a step's life, until it is told to go on.

python -m tests.e2e.holding STAGE PHASE FOLDER: makes FOLDER/reached, and goes on once there is FOLDER/go.
"""

import sys
import threading
from pathlib import Path

from doctor_image_gen.stages import STAGES
from shared.contracts.step import StepMessage
from shared.worker.main import run
from shared.worker.step import Phase

LOOK_EVERY_S = 0.02


def main(stage: str, where: str, folder: str) -> int:
    reached, go = Path(folder) / "reached", Path(folder) / "go"
    told = threading.Event()

    def observe(phase: Phase, _: StepMessage) -> None:
        if phase == where and not reached.exists():
            reached.touch()
            while not go.exists():
                told.wait(LOOK_EVERY_S)

    return run(STAGES[stage], observe=observe)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
