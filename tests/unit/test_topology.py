"""The house topology: everything that must be on the bus, in an order that the broker can follow."""

import pytest

from shared.broker.port import Queue, Topology
from shared.broker.topology import (
    CONTROL,
    EVENTS,
    INTAKE,
    RETRY_LADDER_MS,
    STAGES,
    STEPS,
    dead_queue,
    queue_name,
    retry_queue,
    topology,
)
from shared.contracts.errors import InvalidInput

LADDER_MS = (100, 200)


@pytest.fixture
def house() -> Topology:
    return topology(("swap", "qa"), LADDER_MS)


def by_name(house: Topology) -> dict[str, Queue]:
    return {queue.name: queue for queue in house.queues}


def test_exchanges_have_the_types_of_the_design(house: Topology) -> None:
    """Steps and intake route by exact key, events by pattern, control reaches all."""
    types = {exchange.name: exchange.type for exchange in house.exchanges}
    assert types == {STEPS: "direct", EVENTS: "topic", INTAKE: "direct", CONTROL: "fanout"}


def test_a_stage_reads_its_own_key_and_its_failures_go_to_its_dead_letters(house: Topology) -> None:
    """The stage's name is the routing key; its dead-letter queue is reached by name."""
    swap = by_name(house)["doctorgen.swap"]
    assert swap == Queue("doctorgen.swap", bindings=((STEPS, "swap"),), dead_letter=("", "doctorgen.swap.dead"))


@pytest.mark.parametrize(("stage", "source"), [("swap", (STEPS, "swap")), ("intake", (INTAKE, "intake"))])
@pytest.mark.parametrize("delay_ms", LADDER_MS)
def test_a_retry_queue_holds_for_its_delay_and_gives_back(
    house: Topology, stage: str, source: tuple[str, str], delay_ms: int
) -> None:
    """A retry queue is fed by name alone and empties itself into the exchange that its stage is bound to."""
    name = retry_queue(stage, delay_ms)
    assert by_name(house)[name] == Queue(name, ttl_ms=delay_ms, dead_letter=source)


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


def test_all_stages_have_a_queue_dead_letters_and_the_whole_ladder() -> None:
    """The default topology serves all six stages, the intake and the journal, and no name comes twice."""
    names = [queue.name for queue in topology().queues]
    wanted = {dead_queue("journal"), queue_name("journal")}
    for stage in (*STAGES, "intake"):
        wanted |= {queue_name(stage), dead_queue(stage), *(retry_queue(stage, delay) for delay in RETRY_LADDER_MS)}
    assert set(names) == wanted
    assert len(names) == len(set(names))


@pytest.mark.parametrize("ladder_ms", [(0,), (5, 5), (200, 100)])
def test_a_ladder_that_does_not_rise_is_refused(ladder_ms: tuple[int, ...]) -> None:
    """The message names the field and shows what was found."""
    with pytest.raises(InvalidInput, match=r"retry_ladder_ms: found \[.*rising delays"):
        topology(("swap",), ladder_ms)
