"""A publisher that is refused again and again by a full queue, and what that means for its other messages."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.broker.port import Outgoing
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import QueueFull
from tests.contract.broker_contract import PLANT, SOON_S, fill, job, work_off

SECONDS = 2.0


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url)
    broker.declare(PLANT)
    yield broker
    broker.close()


def test_refusals_never_touch_the_messages_between_them(broker: RabbitBroker) -> None:
    """For two seconds, from four threads at once: each message to the full queue is refused, every other confirmed.

    The publisher renews its channel after refusals; nothing that is under way may be lost to that, or doubled.
    """
    confirmed = fill(broker, "small")
    until = time.monotonic() + SECONDS

    def publish(thread: int) -> tuple[int, int]:
        taken = refused = 0
        while time.monotonic() < until:
            full, free = broker.send(Outgoing("work", "small", b"{}", "no")), broker.send(job(f"{thread}-{taken}"))
            refused += isinstance(full.exception(SOON_S), QueueFull)
            free.result(SOON_S)
            taken += 1
        return taken, refused

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(publish, range(4)))
    assert all(taken == refused > 0 for taken, refused in counts)
    wanted = {f"{thread}-{number}" for thread, (taken, _) in enumerate(counts) for number in range(taken)}
    received = work_off(broker.subscribe("jobs"), len(wanted))
    assert set(received) == wanted
    assert broker.depth("jobs") == 0
    assert broker.depth("small") == len(confirmed)
