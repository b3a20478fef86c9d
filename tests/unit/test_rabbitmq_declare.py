"""How queues are spelled to RabbitMQ, and which servers can do what they ask for."""

import pytest

from shared.broker.port import Queue
from shared.broker.rabbitmq.declare import check_delayed_retry, queue_arguments
from shared.contracts.errors import Permanent


def test_native_delayed_retry_is_declared_as_the_manual_has_it() -> None:
    """Only failures are delayed: a polite hand-back comes again at once. Being held back uses no delivery up."""
    queue = Queue("work", dead_letter=("", "dead"), max_length=9, retry_ms=(1000, 6_000))
    assert queue_arguments(queue, 7) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 7 + 3,
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
        "x-max-length": 9,
        "x-delayed-retry-type": "failed",
        "x-delayed-retry-min": 1000,
        "x-delayed-retry-max": 6_000,
    }


def test_a_queue_that_asks_for_nothing_is_a_plain_quorum_queue() -> None:
    assert queue_arguments(Queue("dead"), 7) == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


@pytest.mark.parametrize("version", ["4.3.0", "4.3.0-rc.1", "4.10.2", "5.0.0"])
def test_servers_that_delay_retries_pass(version: str) -> None:
    check_delayed_retry(version)


@pytest.mark.parametrize("version", ["3.10.8", "4.2.9", "3.13.0+1", "", "unknown"])
def test_servers_that_do_not_are_refused_by_version(version: str) -> None:
    """The message names what was found and what to do."""
    with pytest.raises(
        Permanent, match=rf"RabbitMQ 4\.3 or later; this server says it is '{version[:3]}.*Set retry\.delayed_"
    ):
        check_delayed_retry(version)
