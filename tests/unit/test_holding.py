"""Delays by failing a message so often that a broker with native delayed retry holds it back long enough."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import again
from shared.broker.embedded import EmbeddedBroker
from shared.broker.holding import HOLDS_HEADER, held_ms, holds_for, is_held
from shared.broker.port import Outgoing, Queue, Topology
from shared.broker.topology import queue_name
from shared.contracts.errors import Transient
from shared.worker.retry import RetryPolicy, RetryRule

LADDERS = st.tuples(st.integers(1, 5_000), st.integers(0, 600_000)).map(lambda each: (each[0], each[0] + each[1]))
NATIVE = RetryPolicy(rules={"Transient": RetryRule(attempts=3)}, ladder_ms=(500, 300_000), delayed_retry="native")


@given(LADDERS, st.integers(1, 600_000))
def test_a_message_waits_as_long_as_wanted_and_one_more_of_the_broker_s_delays_at_most(
    retry_ms: tuple[int, int], delay_ms: int
) -> None:
    holds = holds_for(delay_ms, retry_ms)
    last_ms = min(holds * retry_ms[0], retry_ms[1])
    assert delay_ms <= held_ms(holds, retry_ms) < delay_ms + last_ms


def test_each_delay_is_the_first_times_the_number_of_deliveries_up_to_the_longest() -> None:
    assert [held_ms(holds, (100, 250)) for holds in (1, 2, 3, 4)] == [100, 300, 550, 800]
    assert [holds_for(delay, (100, 250)) for delay in (1, 100, 101, 300, 301, 800)] == [1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize(("told", "held"), [("2", [True, True, False]), ("many", [False] * 3), ("-1", [False] * 3)])
def test_a_message_is_held_so_often_and_then_worked_on(told: str, held: list[bool]) -> None:
    """A header that is none of ours holds nothing back."""
    broker = EmbeddedBroker()
    broker.declare(Topology((), (Queue("work"),)))
    broker.publish(Outgoing("", "work", b"", "1", {HOLDS_HEADER: told}))
    subscription = broker.subscribe("work")
    found = []
    for _ in held:
        delivery = subscription.receive(0)
        assert delivery is not None
        found.append(is_held(delivery))
        delivery.fail()
    assert found == held
    broker.close()


def test_a_request_that_could_not_be_taken_in_is_held_back_in_its_own_queue() -> None:
    """It keeps count of its attempts, and goes no further when they are used up."""
    broker = EmbeddedBroker()
    broker.declare(Topology((), (Queue(queue_name("intake")),)))
    broker.publish(Outgoing("", queue_name("intake"), b"{}", "1"))
    subscription = broker.subscribe(queue_name("intake"))
    for attempts in (1, 2):
        delivery = subscription.receive(0)
        assert delivery is not None
        later = again.after_failure(delivery, Transient("away"), NATIVE, Random(1))
        assert later is not None
        assert later.headers[again.ATTEMPTS_HEADER] == str(attempts)
        assert int(later.headers[HOLDS_HEADER]) >= 1
        broker.publish(later)
        delivery.ack()
    delivery = subscription.receive(0)
    assert delivery is not None
    assert again.after_failure(delivery, Transient("away"), NATIVE, Random(1)) is None
    broker.close()
