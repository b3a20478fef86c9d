"""One chaos run from the first order to the last acknowledgement."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from random import Random

from doctor_image_gen.stack import Connections
from tests.chaos.caller import Caller
from tests.chaos.faults import Striker, Struck
from tests.chaos.house import SIDES, House
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.orders import Order, orders
from tests.chaos.plan import Plan
from tests.chaos.stages import STAGES
from tests.chaos.supervisor import Slot
from tests.chaos.watch import Watch

WORKERS_A_STAGE = 2
GATEWAYS = 2
OUTSTANDING = 40
MOST_JOBS = 4
"""As many times more than planned are filed at most, to keep the pipeline at work while faults are left."""

MISCHIEF_SHARE = 0.06
EMPTY_WITHIN_S = 90.0
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Account:
    """What a run leaves to be judged; times are of the monotonic clock."""

    plan: Plan
    orders: Mapping[str, Order]
    finished: Mapping[str, float]
    struck: Sequence[Struck]
    entries: Sequence[Entry]
    seconds: float
    left_in_queues: Mapping[str, int]
    statuses: Mapping[str, int]


def perform(plan: Plan, house: House) -> Account:
    """Run the plan in the house; everything has come to rest when this returns."""
    began = time.monotonic()
    groups = _slots(plan.seed, house)
    everybody = [slot for group in groups.values() for slot in group]
    connections = Connections.open(house.settings)
    with closing(connections), closing(Watch(connections.jobs, Ledger(house.ledger, "watch"))) as watch:
        striker = Striker(plan, house, connections, groups, watch)
        try:
            for slot in everybody:
                slot.start()
            striker.start()
            filed = _file(plan, house, watch, striker)
            striker.stop()
            left, statuses = _come_to_rest(house, groups)
        finally:
            striker.stop()
            for slot in everybody:
                slot.kill()
        return Account(
            plan=plan,
            orders=filed,
            finished=watch.finished,
            struck=striker.struck,
            entries=tuple(Ledger(house.ledger, "").entries()),
            seconds=time.monotonic() - began,
            left_in_queues=left,
            statuses=statuses,
        )


def _slots(seed: int, house: House) -> dict[str, list[Slot]]:
    """All processes by group. Every other worker, and every other gateway, has a clock that jumps."""

    def slot(group: str, number: int, *command: str) -> Slot:
        clock = {"CHAOS_CLOCK_SEED": str(seed + number)} if number % 2 else {}
        return Slot(f"{group}-{number}", command, {**house.environment(number % SIDES), **clock}, house.folder)

    groups = {
        stage: [slot(stage, number, "tests.chaos.worker", stage) for number in range(WORKERS_A_STAGE)]
        for stage in STAGES
    }
    groups["gateway"] = [slot("gateway", number, "tests.chaos.gateway") for number in range(GATEWAYS)]
    groups["mischief"] = [slot("mischief", 0, "tests.chaos.mischief", str(seed), str(MISCHIEF_SHARE))]
    return groups


def _file(plan: Plan, house: House, watch: Watch, striker: Striker) -> dict[str, Order]:
    """File the plan's jobs, and as many more as it takes until all faults have struck a pipeline at work; all ended."""
    folder = house.folder / "photos"
    folder.mkdir()
    with closing(Connections.open(house.settings_of(0))) as connections:
        caller = Caller(connections, watch, Random(f"file/{plan.seed}"), lambda: striker.disk_lost_at)
        for order in orders(plan.seed, folder):
            enough = plan.amounts.jobs if striker.is_through else MOST_JOBS * plan.amounts.jobs
            if len(caller.filed) >= enough or not caller.wait_until_fewer_than(OUTSTANDING):
                break
            caller.file(order)
        caller.wait_until_fewer_than(1)
    return caller.filed


def _come_to_rest(house: House, groups: Mapping[str, Sequence[Slot]]) -> tuple[dict[str, int], dict[str, int]]:
    """Let late copies be worked off and everybody end politely; what is left in queues, and how everybody ended."""
    account = Ledger(house.ledger, "rest")
    statuses = {slot.name: slot.end() for slot in groups["mischief"]}
    _wait_until_empty(house, account)
    workers = [slot for stage in STAGES for slot in groups[stage]]
    statuses |= {slot.name: slot.end() for slot in workers}
    left = _wait_until_empty(house, account)
    statuses |= {slot.name: slot.end() for slot in groups["gateway"]}
    return left, statuses


def _wait_until_empty(house: House, account: Ledger) -> dict[str, int]:
    """What still waits in which queues, or in whose hands, when all are empty, or the time is up."""
    until = time.monotonic() + EMPTY_WITHIN_S
    while True:
        left = house.messages()
        account.note("left", json.dumps(left))
        if time.monotonic() > until or not left:
            return left
        time.sleep(LOOK_EVERY_S)
