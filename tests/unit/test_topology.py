"""The house topology: everything that must be on the bus, in an order that the broker can follow."""

import pytest

from shared.broker.port import Queue, Topology
from shared.broker.topology import (
    CONTROL,
    EVENTS,
    INTAKE,
    LANES,
    RETRY_LADDER_MS,
    STAGES,
    STEPS,
    dead_queue,
    queue_name,
    retry_queue,
    retry_queues,
    topology,
    work_queues,
)
from shared.contracts.errors import InvalidInput

LADDER_MS = (100, 200)


@pytest.fixture
def house() -> Topology:
    return topology(("swap", "qa"), LADDER_MS, queue_limit=7)


def by_name(house: Topology) -> dict[str, Queue]:
    return {queue.name: queue for queue in house.queues}


def test_exchanges_have_the_types_of_the_design(house: Topology) -> None:
    """Steps and intake route by exact key, events by pattern, control reaches all."""
    types = {exchange.name: exchange.type for exchange in house.exchanges}
    assert types == {STEPS: "direct", EVENTS: "topic", INTAKE: "direct", CONTROL: "fanout"}


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_each_lane_reads_its_own_key_and_shares_its_stages_dead_letters(house: Topology, lane: str) -> None:
    """Stage and lane are the routing key; the dead-letter queue is reached by name."""
    name = f"doctorgen.swap.{lane}"
    assert by_name(house)[name] == Queue(
        name, bindings=((STEPS, f"swap.{lane}"),), dead_letter=("", "doctorgen.swap.dead"), max_length=7
    )


def test_the_intake_takes_jobs_batches_and_commands_into_one_bounded_queue(house: Topology) -> None:
    """Two keys and the fanout of commands, one queue, no lanes."""
    intake = by_name(house)["doctorgen.intake"]
    assert intake.bindings == ((INTAKE, "intake"), (INTAKE, "batch"), (CONTROL, ""))
    assert intake.max_length == 7


@pytest.mark.parametrize(
    ("stage", "lane", "source"),
    [
        ("swap", "interactive", (STEPS, "swap.interactive")),
        ("swap", "bulk", (STEPS, "swap.bulk")),
        ("intake", None, (INTAKE, "intake")),
    ],
)
@pytest.mark.parametrize("delay_ms", LADDER_MS)
def test_a_retry_queue_holds_for_its_delay_and_gives_back(
    house: Topology, stage: str, lane: str | None, source: tuple[str, str], delay_ms: int
) -> None:
    """A retry queue is fed by name alone and empties itself into the exchange that its lane is bound to."""
    name = retry_queue(stage, lane, delay_ms)
    assert by_name(house)[name] == Queue(name, ttl_ms=delay_ms, dead_letter=source)


def test_only_what_others_publish_to_is_bounded(house: Topology) -> None:
    """Refusing a dead letter, a retry or an event would lose or stall it."""
    bounded = {queue.name for queue in house.queues if queue.max_length is not None}
    assert bounded == {*work_queues("swap"), *work_queues("qa"), queue_name("intake")}


def test_native_delayed_retry_needs_no_retry_queues() -> None:
    """The work queues and the intake's hold failed messages back themselves, between the ladder's ends."""
    native = topology(("swap",), (100, 200, 500), delayed_retry="native")
    delaying = {queue.name for queue in native.queues if queue.retry_ms == (100, 500)}
    assert delaying == {*work_queues("swap"), queue_name("intake")}
    assert not [queue.name for queue in native.queues if queue.ttl_ms is not None or ".retry." in queue.name]
    assert set(topology(delayed_retry="native").queue_names) < set(topology().queue_names)


def test_native_delayed_retry_needs_a_ladder() -> None:
    with pytest.raises(InvalidInput, match="retry_ladder_ms"):
        topology(("swap",), (), delayed_retry="native")


def test_the_journal_gets_every_event_and_has_dead_letters(house: Topology) -> None:
    """The journal is bound with the pattern that matches all keys."""
    journal = by_name(house)["doctorgen.journal"]
    assert journal.bindings == ((EVENTS, "#"),)
    assert journal.dead_letter == ("", "doctorgen.journal.dead")


def test_dead_letter_targets_stand_before_the_queues_that_need_them() -> None:
    """At-least-once dead-lettering to a missing queue stalls for minutes, so the order is part of the topology."""
    house = topology()
    exchanges = {exchange.name for exchange in house.exchanges}
    bound: set[tuple[str, str]] = set()
    for queue in house.queues:
        assert {exchange for exchange, _ in queue.bindings} <= exchanges
        assert queue.dead_letter is None or queue.dead_letter in bound
        bound |= {("", queue.name), *queue.bindings}


def test_all_stages_have_two_lanes_dead_letters_and_the_whole_ladder_for_each() -> None:
    """The default topology serves all six stages, the intake and the journal, and no name comes twice."""
    names = [queue.name for queue in topology().queues]
    wanted = {queue_name("intake"), dead_queue("intake"), dead_queue("journal"), queue_name("journal")}
    wanted |= {retry_queue("intake", None, delay) for delay in RETRY_LADDER_MS}
    for stage in STAGES:
        wanted |= {*work_queues(stage), dead_queue(stage)}
        wanted |= {retry_queue(stage, lane, delay) for lane in LANES for delay in RETRY_LADDER_MS}
    assert set(names) == wanted
    assert len(names) == len(set(names))


def test_queues_can_be_listed_by_name() -> None:
    """Interactive stands first among a stage's queues; the intake has one set of retry queues, a stage two."""
    assert work_queues("swap") == ("doctorgen.swap.interactive", "doctorgen.swap.bulk")
    assert retry_queues("intake", LADDER_MS) == ("doctorgen.intake.retry.100ms", "doctorgen.intake.retry.200ms")
    assert retry_queues("swap", LADDER_MS) == tuple(
        f"doctorgen.swap.{lane}.retry.{delay}ms" for lane in ("interactive", "bulk") for delay in LADDER_MS
    )
    every = topology(retry_ladder_ms=LADDER_MS).queue_names
    assert {queue_name(stage, lane) for stage in STAGES for lane in LANES} < set(every)


@pytest.mark.parametrize("ladder_ms", [(0,), (5, 5), (200, 100)])
def test_a_ladder_that_does_not_rise_is_refused(ladder_ms: tuple[int, ...]) -> None:
    """The message names the field and shows what was found."""
    with pytest.raises(InvalidInput, match=r"retry_ladder_ms: found \[.*rising delays"):
        topology(("swap",), ladder_ms)


def test_a_queue_in_which_nothing_may_wait_is_refused() -> None:
    with pytest.raises(InvalidInput, match="queue_limit: found 0"):
        topology(("swap",), LADDER_MS, queue_limit=0)
