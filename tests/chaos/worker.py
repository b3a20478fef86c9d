"""A worker of one chaos stage, run as every worker is; it keeps account, and dies where it is told to.

python -m tests.chaos.worker STAGE
"""

import sys

from tests.chaos.inside import disturb_the_clock, doom, ledger


def main(stage: str) -> int:
    """Work until SIGTERM, or until doom strikes."""
    disturb_the_clock()
    from shared.contracts.step import StepMessage
    from shared.worker.keys import step_key
    from shared.worker.main import run
    from shared.worker.step import Phase
    from tests.chaos.stages import STAGES

    account, end = ledger(), doom()

    def observe(phase: Phase, message: StepMessage) -> None:
        if phase in ("started", "computed"):
            slots = message.step.inputs.items()
            digests = {name: tuple(ref.sha256 for ref in message.artifacts[slot]) for name, slot in slots}
            account.note(phase, f"{message.subject}/{step_key(message.step, {}, digests)}")
        end.strikes(phase)

    return run(STAGES[stage], observe=observe)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
