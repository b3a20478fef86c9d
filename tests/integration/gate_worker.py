"""A worker of a synthetic stage; it kills itself with SIGKILL when it first reaches a given point of a step's life.

python -m tests.integration.gate_worker STAGE [PHASE [breaks]]

One that `breaks` fails at the step "one" of every further attempt, and kills itself in none but those.
"""

import os
import signal
import sys

from shared.contracts.errors import Permanent
from shared.contracts.step import StepMessage
from shared.worker.main import run
from shared.worker.operation import Work
from shared.worker.step import Phase
from tests import synthetic
from tests.synthetic import QA, REFINE, UPSCALE, AppendParams, HeldParams

FIRST_WEIGHT = HeldParams().identity_weight
STAGES = {stage.name: stage for stage in (REFINE, UPSCALE, QA)}


def main(stage: str, deadly: str = "", breaks: str = "") -> int:
    """Work until SIGTERM, or until death."""

    def observe(phase: Phase, message: StepMessage) -> None:
        if phase == deadly and (message.tried or not breaks):
            os.kill(os.getpid(), signal.SIGKILL)

    def fail(work: Work[AppendParams]) -> None:
        if isinstance(work.params, HeldParams) and work.params.identity_weight > FIRST_WEIGHT:
            raise Permanent("broken on purpose")

    if breaks:
        synthetic.during[0] = fail
    return run(STAGES[stage], observe=observe)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
