"""One chaos run from the first order to the last acknowledgement."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from random import Random

from doctor_image_gen.client import Client, id_of
from doctor_image_gen.stack import Connections
from shared.contracts.errors import Transient
from tests.chaos.faults import Striker, Struck
from tests.chaos.house import LIMITS, SIDES, House
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

FILED_TWICE = 0.1
MISCHIEF_SHARE = 0.06
STALLED_AFTER_S = 150.0
FILING_PAUSE_S = 0.3
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
            _wait_for_the_end(watch)
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
    """File the plan's jobs, and as many more as it takes until all faults have struck a pipeline at work."""
    folder = house.folder / "photos"
    folder.mkdir()
    rng = Random(f"file/{plan.seed}")
    filed: dict[str, Order] = {}
    with closing(Connections.open(house.settings_of(0))) as connections:
        client = Client(connections, LIMITS)
        for order in orders(plan.seed, folder):
            enough = plan.amounts.jobs if striker.is_through else MOST_JOBS * plan.amounts.jobs
            if len(filed) >= enough:
                break
            job_id = id_of(order.request)
            filed[job_id] = order
            watch.expect(job_id)
            for _ in range(2 if rng.random() < FILED_TWICE else 1):
                _file_one(connections, client, order)
            if not watch.wait_until(partial(_is_below, watch, OUTSTANDING), STALLED_AFTER_S):
                break
    return filed


def _file_one(connections: Connections, client: Client, order: Order) -> None:
    """As a caller does: put the photo, publish the request, try again while there is trouble."""
    while True:
        try:
            connections.store.put(order.request.photos[0].key, order.photo.read_bytes(), "image/png")
            client.submit(order.request)
        except Transient:
            time.sleep(FILING_PAUSE_S)
        else:
            return


def _wait_for_the_end(watch: Watch) -> None:
    """Until all have ended, or for so long not one of them."""
    while before := watch.outstanding:
        if not watch.wait_until(partial(_is_below, watch, before), STALLED_AFTER_S):
            return


def _is_below(watch: Watch, bound: int) -> bool:
    return watch.outstanding < bound


def _come_to_rest(house: House, groups: Mapping[str, Sequence[Slot]]) -> tuple[dict[str, int], dict[str, int]]:
    """Let late copies be worked off and everybody end politely; what is left in queues, and how everybody ended."""
    statuses = {slot.name: slot.end() for slot in groups["mischief"]}
    _wait_until_empty(house)
    workers = [slot for stage in STAGES for slot in groups[stage]]
    statuses |= {slot.name: slot.end() for slot in workers}
    left = _wait_until_empty(house)
    statuses |= {slot.name: slot.end() for slot in groups["gateway"]}
    return left, statuses


def _wait_until_empty(house: House) -> dict[str, int]:
    """What still waits in which queues, or in whose hands, when all are empty, or the time is up."""
    until = time.monotonic() + EMPTY_WITHIN_S
    while True:
        left = house.messages()
        if time.monotonic() > until or not left:
            return left
        time.sleep(LOOK_EVERY_S)
