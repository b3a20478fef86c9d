"""A worker of a synthetic stage; it kills itself with SIGKILL when it first reaches a given point of a step's life.

python -m tests.integration.gate_worker STAGE [PHASE]
"""

import os
import signal
import sys

from shared.contracts.step import StepMessage
from shared.worker.main import run
from shared.worker.step import Phase
from tests.synthetic import QA, REFINE, UPSCALE

STAGES = {stage.name: stage for stage in (REFINE, UPSCALE, QA)}


def main(stage: str, deadly: str = "") -> int:
    """Work until SIGTERM, or until death."""

    def observe(phase: Phase, _: StepMessage) -> None:
        if phase == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    return run(STAGES[stage], observe=observe)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
