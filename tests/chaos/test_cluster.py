"""A cluster of three nodes that loses the leader of a queue: what was confirmed is there, and everybody goes on."""

import threading
import time
from collections.abc import Iterator

import pytest

from shared.broker.port import Broker
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import Transient
from tests.contract.broker_contract import PLANT, job
from tests.servers.rabbitmq import Cluster, RabbitNode

pytestmark = pytest.mark.chaos

MESSAGES = 1500
KILL_AFTER = 300
ELECTION_LIMIT_S = 60.0


@pytest.fixture
def vhost(rabbitmq_cluster: Cluster) -> Iterator[str]:
    with rabbitmq_cluster.nodes[0].virtual_host() as name:
        yield name


@pytest.fixture
def leader(rabbitmq_cluster: Cluster, vhost: str) -> Iterator[RabbitNode]:
    """The node that leads the queue `jobs`; it runs again afterwards."""
    declaring = RabbitBroker(rabbitmq_cluster.nodes[1].url_of(vhost))
    declaring.declare(PLANT)
    declaring.close()
    rabbitmq_cluster.nodes[1].settle()
    leader = rabbitmq_cluster.leader_of(vhost, "jobs")
    yield leader
    if not leader.is_running:
        leader.start()


def publish_stubbornly(broker: Broker, name: str) -> int:
    """Publish until it is confirmed; returns how often that took."""
    until = time.monotonic() + ELECTION_LIMIT_S
    attempts = 1
    while True:
        try:
            broker.publish(job(name))
        except Transient:
            assert time.monotonic() < until, f"{name} was never confirmed"
            attempts += 1
            time.sleep(0.02)
        else:
            return attempts


def test_a_cluster_that_loses_a_leader_loses_no_message(
    rabbitmq_cluster: Cluster, vhost: str, leader: RabbitNode
) -> None:
    """Kill -9 of the leader amid publishes and deliveries; the publisher was connected to it, the consumer was not.

    Every confirmed message arrives, and only one whose publishing failed or whose delivery was lost comes twice. The
    publisher goes on through another node, and so does the same subscription.
    """
    others = [node for node in rabbitmq_cluster.nodes if node is not leader]
    publisher = RabbitBroker(",".join(node.url_of(vhost) for node in (leader, *others)))
    consumer = RabbitBroker(",".join(node.url_of(vhost) for node in (*others, leader)))
    enough = threading.Event()
    attempts: dict[str, int] = {}

    def publish_all() -> None:
        for number in range(MESSAGES):
            attempts[str(number)] = publish_stubbornly(publisher, str(number))
            if number == KILL_AFTER:
                enough.set()

    try:
        subscription = consumer.subscribe("urgent", "jobs")
        publishing = threading.Thread(target=publish_all)
        publishing.start()
        received: list[str | None] = []
        again: set[str | None] = set()
        while len(set(received)) < MESSAGES:
            delivery = subscription.receive(ELECTION_LIMIT_S)
            assert delivery is not None, f"only {len(set(received))} messages came"
            received.append(delivery.message_id)
            if delivery.redelivered:
                again.add(delivery.message_id)
            if enough.is_set() and leader.is_running:
                leader.kill()
            delivery.ack()
        publishing.join(ELECTION_LIMIT_S)
        assert set(received) == set(attempts)
        assert not leader.is_running
        assert rabbitmq_cluster.leader_of(vhost, "jobs", ask=others[0]) is not leader
        assert max(attempts.values()) > 1, "the leader was killed when nothing was under way"
        surplus = {name for name in received if received.count(name) > 1}
        assert {name for name in surplus if attempts[str(name)] == 1} <= again
    finally:
        publisher.close()
        consumer.close()


def test_a_consumer_of_a_lost_node_goes_on_through_another(
    rabbitmq_cluster: Cluster, vhost: str, leader: RabbitNode
) -> None:
    """The consumer was connected to the node that is killed, with a message in hand: it gets that one again."""
    others = [node for node in rabbitmq_cluster.nodes if node is not leader]
    publisher = RabbitBroker(",".join(node.url_of(vhost) for node in others))
    consumer = RabbitBroker(",".join(node.url_of(vhost) for node in (leader, *others)))
    try:
        publish_stubbornly(publisher, "in hand")
        subscription = consumer.subscribe("urgent", "jobs")
        held = subscription.receive(ELECTION_LIMIT_S)
        assert held is not None
        leader.kill()
        publish_stubbornly(publisher, "next")
        held.ack()
        names: set[str | None] = set()
        while names != {"in hand", "next"}:
            delivery = subscription.receive(ELECTION_LIMIT_S)
            assert delivery is not None, f"only {names} came"
            names.add(delivery.message_id)
            delivery.ack()
    finally:
        publisher.close()
        consumer.close()
