"""A worker that kills itself with SIGKILL the first time it reaches a given point of a step's life.

python -m tests.e2e.killable STAGE PHASE
"""

import os
import signal
import sys

from doctor_image_gen.stages import STAGES
from shared.contracts.step import StepMessage
from shared.worker.main import run
from shared.worker.step import Phase


def main(stage: str, deadly: str) -> int:
    def observe(phase: Phase, _: StepMessage) -> None:
        if phase == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    return run(STAGES[stage], observe=observe)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
