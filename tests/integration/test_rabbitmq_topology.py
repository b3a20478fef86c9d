"""The house topology as RabbitMQ has it: durable, replicated, and losing nothing on the way to the dead letters."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shared.broker.port import Outgoing
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import LANES, STAGES, dead_queue, queue_name, retry_queue, topology
from tests.contract.broker_contract import next_of
from tests.servers.rabbitmq import RabbitNode

LADDER_MS = (100, 1000)


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url, delivery_limit=7)
    broker.declare(topology(STAGES, LADDER_MS, queue_limit=500))
    yield broker
    broker.close()


@pytest.fixture
def queues(rabbitmq_node: RabbitNode, rabbitmq_vhost: str, broker: RabbitBroker) -> dict[str, dict[str, Any]]:
    """The arguments of every queue, as the server tells them."""
    del broker
    found = rabbitmq_node.api("GET", f"/queues/{rabbitmq_vhost}")
    return {queue["name"]: queue["arguments"] for queue in found}


def test_every_queue_is_a_quorum_queue(queues: dict[str, dict[str, Any]]) -> None:
    assert {arguments["x-queue-type"] for arguments in queues.values()} == {"quorum"}


@pytest.mark.parametrize(
    ("queue", "stage", "limit"),
    [
        *((queue_name(stage, lane), stage, 500) for stage in STAGES for lane in LANES),
        ("doctorgen.intake", "intake", 500),
        ("doctorgen.journal", "journal", None),
    ],
)
def test_dead_letters_are_handed_on_at_least_once(
    queues: dict[str, dict[str, Any]], queue: str, stage: str, limit: int | None
) -> None:
    """RabbitMQ keeps a message until the dead-letter queue has it, after seven deliveries in vain."""
    bound = {} if limit is None else {"x-max-length": limit}
    assert queues[queue] == bound | {
        "x-queue-type": "quorum",
        "x-delivery-limit": 7,
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_queue(stage),
    }


def test_dead_letters_are_kept_however_often_they_are_looked_at(queues: dict[str, dict[str, Any]]) -> None:
    """They have nowhere to go but away, so no usual number of hand-backs may drop them."""
    assert queues[dead_queue("swap")] == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


def test_a_retry_queue_gives_back_at_least_once(queues: dict[str, dict[str, Any]]) -> None:
    arguments = queues[retry_queue("swap", "bulk", 1000)]
    assert arguments["x-message-ttl"] == 1000
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-dead-letter-exchange"] == "doctorgen.steps"
    assert arguments["x-dead-letter-routing-key"] == "swap.bulk"


def test_each_address_reaches_its_queue(broker: RabbitBroker) -> None:
    """Steps, intake and events arrive where their readers wait, marked persistent JSON."""
    addresses = (
        ("doctorgen.swap.bulk", "doctorgen.steps", "swap.bulk"),
        ("doctorgen.swap.interactive", "doctorgen.steps", "swap.interactive"),
        ("doctorgen.intake", "doctorgen.intake", "intake"),
        ("doctorgen.intake", "doctorgen.intake", "batch"),
        ("doctorgen.journal", "doctorgen.events", "job.7.started"),
    )
    for queue, exchange, key in addresses:
        broker.publish(Outgoing(exchange, key, queue.encode(), queue))
        with closing(broker.subscribe(queue)) as subscription:
            delivery = next_of(subscription)
            assert (delivery.body, delivery.routing_key) == (queue.encode(), key)
            delivery.ack()
