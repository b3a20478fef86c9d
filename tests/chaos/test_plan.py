"""A plan of faults is data that follows from its seed, and so is a clock that jumps."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tests.chaos.clock import JUMPS_S, JumpingClock, offset_of
from tests.chaos.plan import FIRST, LAST, PHASES, Amounts, make_plan
from tests.chaos.stages import STAGES

AMOUNTS = Amounts()


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert make_plan(7, AMOUNTS, tuple(STAGES)) == make_plan(7, AMOUNTS, tuple(STAGES))
    assert make_plan(7, AMOUNTS, tuple(STAGES)) != make_plan(8, AMOUNTS, tuple(STAGES))


def test_a_plan_holds_as_many_faults_as_were_asked_for() -> None:
    plan = make_plan(7, AMOUNTS, tuple(STAGES))
    assert Counter(fault.kind for fault in (*plan.processes, *plan.surroundings, *plan.steps)) == {
        "worker": AMOUNTS.worker_kills,
        "gateway": AMOUNTS.gateway_kills,
        "drain": AMOUNTS.drains,
        "broker": AMOUNTS.broker_kills,
        "storage": AMOUNTS.storage_outages,
        "network": AMOUNTS.network_faults,
        "database": AMOUNTS.database_cuts,
        "hang": AMOUNTS.hangs,
        "corruption": AMOUNTS.corruptions,
        "disk": AMOUNTS.disk_losses,
    }


def test_half_of_the_kills_are_at_named_phases_and_every_phase_has_its_turn() -> None:
    plan = make_plan(7, AMOUNTS, tuple(STAGES))
    how = Counter(fault.how for fault in plan.processes if fault.kind == "worker")
    assert how["random"] == AMOUNTS.worker_kills // 2
    assert set(how) == {"random", *PHASES}


def test_faults_come_in_order_while_jobs_are_under_way() -> None:
    plan = make_plan(7, AMOUNTS, tuple(STAGES))
    for row in plan.rows:
        assert all(sooner.after <= later.after for sooner, later in pairwise(row))
        assert all(FIRST <= fault.after <= LAST for fault in row)


def test_a_jumping_clock_is_right_at_first_and_then_jumps_by_hours() -> None:
    told: list[float] = []
    clock = JumpingClock(5, told.append)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    assert told == []
    offsets = [offset_of(5, period) for period in range(200)]
    assert offsets[0] == 0
    assert set(offsets) == set(JUMPS_S)
    assert offsets == [offset_of(5, period) for period in range(200)]
