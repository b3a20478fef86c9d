"""A RabbitMQ node that dies: what it confirmed is still there, and nobody has to start anything again."""

import threading

from shared.broker.port import Broker
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import Transient
from tests.contract.broker_contract import PLANT, job, next_of
from tests.servers.rabbitmq import RabbitNode

MESSAGES = 1500
KILL_AFTER = 300


def publish_stubbornly(broker: Broker, name: str) -> int:
    """Publish until it is confirmed; returns how often that took."""
    for attempt in range(1, 100):
        try:
            broker.publish(job(name))
        except Transient:
            continue
        return attempt
    raise AssertionError(f"{name} was never confirmed")


def test_a_killed_node_loses_nothing_it_confirmed(rabbitmq_node: RabbitNode, rabbitmq_url: str) -> None:
    """Kill -9 amid publishes: every confirmed message arrives, and the same subscription goes on receiving.

    Only a message whose publishing failed, and which was therefore published again, may come twice.
    """
    broker = RabbitBroker(rabbitmq_url, publish_timeout_s=30)
    try:
        broker.declare(PLANT)
        rabbitmq_node.settle()
        subscription = broker.subscribe("jobs")
        enough = threading.Event()
        attempts: dict[str, int] = {}

        def publish_all() -> None:
            for number in range(MESSAGES):
                attempts[str(number)] = publish_stubbornly(broker, str(number))
                if number == KILL_AFTER:
                    enough.set()

        publisher = threading.Thread(target=publish_all)
        publisher.start()
        held = next_of(subscription)
        assert enough.wait(30)
        rabbitmq_node.kill()
        rabbitmq_node.start()
        held.ack()
        received: list[str | None] = []
        while len(set(received)) < MESSAGES:
            delivery = next_of(subscription)
            received.append(delivery.message_id)
            delivery.ack()
        publisher.join(30)
        assert not publisher.is_alive()
        assert set(received) == set(attempts)
        assert max(attempts.values()) > 1, "the node was killed when nothing was under way"
        surplus = {name for name in received if received.count(name) > 1} - {held.message_id}
        assert {attempts[str(name)] for name in surplus} <= {2, 3}
    finally:
        broker.close()
