"""The whole chaos suite: python -m tests.chaos. Prints its table; the exit status is 1 where a promise is broken."""

import argparse
import signal
import sys
from dataclasses import fields
from pathlib import Path

from doctor_image_gen.stack import Connections
from tests.chaos.audit import audit_ends, audit_recovery, audit_repetition
from tests.chaos.house import House, own_house
from tests.chaos.orders import Reference
from tests.chaos.plan import Amounts, Plan, make_plan
from tests.chaos.report import promises_broken, table
from tests.chaos.run import perform
from tests.chaos.stages import RECIPE_NAME, RECIPES, STAGES

SEED = 2026


def main() -> int:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    for amount in fields(Amounts):
        parser.add_argument(f"--{amount.name.replace('_', '-')}", type=int, default=amount.default)
    parser.add_argument("--folder", type=Path, help="where logs are kept; it must not exist yet")
    words = vars(parser.parse_args())
    folder = words.pop("folder")
    plan = make_plan(words.pop("seed"), Amounts(**words), tuple(STAGES))
    # As Ctrl-C does, so that servers and processes are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with own_house(folder) as house:
        text, broken = judged(plan, house)
    sys.stdout.write("\n".join([text, *(f"\nBROKEN: {promise}" for promise in broken)]) + "\n")
    return 1 if broken else 0


def judged(plan: Plan, house: House) -> tuple[str, list[str]]:
    """Perform a plan; its table, and the promises that were broken."""
    account = perform(plan, house)
    connections = Connections.open(house.settings)
    ends = audit_ends(account.orders, connections.jobs, connections.store, Reference(RECIPES[RECIPE_NAME]))
    connections.close()
    repetition = audit_repetition(account.entries)
    recovery = audit_recovery(account.struck, account.finished)
    return table(account, ends, repetition, recovery), promises_broken(ends, account)


if __name__ == "__main__":
    sys.exit(main())
