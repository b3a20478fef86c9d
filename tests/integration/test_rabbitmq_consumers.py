"""What a consumer on RabbitMQ lives through: long work, a cancelled consumer, poison, a broker short of memory."""

import time
from collections.abc import Iterator

import pika
import pytest

from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import Transient
from tests.contract.broker_contract import PLANT, SOON_S, job, next_of, wait_for_depth, work_off
from tests.servers.proxy import FaultyProxy
from tests.servers.rabbitmq import RabbitNode


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url)
    broker.declare(PLANT)
    yield broker
    broker.close()


def work_for(seconds: float) -> None:
    """Keep the processor and the interpreter busy, as an engine in Python would."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def test_long_work_keeps_its_connection(rabbitmq_node: RabbitNode, rabbitmq_vhost: str) -> None:
    """Work of many heartbeats, done between delivery and acknowledgement, costs no connection and no redelivery."""
    with FaultyProxy(rabbitmq_node.port) as proxy:
        broker = RabbitBroker(rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port), heartbeat_s=1)
        try:
            broker.declare(PLANT)
            broker.publish(job("long"))
            subscription = broker.subscribe("jobs")
            delivery = next_of(subscription)
            connections = proxy.accepted
            work_for(4.0)
            delivery.ack()
            broker.publish(job("next"))
            assert work_off(subscription, 1) == ["next"]
            assert proxy.accepted == connections
        finally:
            broker.close()


def test_a_consumer_that_the_server_cancels_subscribes_again(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Its queue is deleted and made anew; the same subscription reads the new one. The old delivery is no trouble.

    RabbitMQ 3.10 loses track of a consumer whose queue stands again before it was cancelled, hence the wait.
    """
    subscription = broker.subscribe("jobs")
    broker.publish(job("of the old queue"))
    old = next_of(subscription)
    rabbitmq_node.api("DELETE", f"/queues/{rabbitmq_vhost}/jobs")
    until = time.monotonic() + SOON_S
    while "cancelled the consumer" not in caplog.text:
        assert time.monotonic() < until
        time.sleep(0.01)
    broker.declare(PLANT)
    broker.publish(job("of the new queue"))
    old.ack()
    assert work_off(subscription, 1) == ["of the new queue"]


def test_a_queue_that_does_not_exist_yet_is_consumed_when_it_does(rabbitmq_url: str) -> None:
    """A worker may start before whoever declares."""
    broker = RabbitBroker(rabbitmq_url)
    try:
        subscription = broker.subscribe("jobs")
        assert subscription.receive(0.5) is None
        broker.declare(PLANT)
        broker.publish(job("first"))
        assert work_off(subscription, 1) == ["first"]
    finally:
        broker.close()


def test_poison_goes_to_the_dead_letters(rabbitmq_url: str) -> None:
    """A message whose every consumer dies with it is delivered so often and no more, then rests in the dead queue."""
    limit = 2
    owner = RabbitBroker(rabbitmq_url, delivery_limit=limit)
    try:
        owner.declare(PLANT)
        owner.publish(job("poison", b"body"))
        for _ in range(limit + 1):
            victim = RabbitBroker(rabbitmq_url)
            assert next_of(victim.subscribe("jobs")).message_id == "poison"
            victim.close()
        dead = next_of(owner.subscribe("jobs.dead"))
        assert (dead.message_id, dead.body) == ("poison", b"body")
        assert dead.headers["x-first-death-reason"] == "delivery_limit"
        dead.ack()
        assert owner.depth("jobs") == 0
    finally:
        owner.close()


def test_a_broker_short_of_memory_is_named_and_consumers_go_on(
    rabbitmq_node: RabbitNode, rabbitmq_url: str, broker: RabbitBroker
) -> None:
    """Publishing fails with RabbitMQ's own reason; receiving and acknowledging still work; then all is well again."""
    publisher = RabbitBroker(rabbitmq_url, publish_timeout_s=1.0)
    try:
        for name in ("one", "two"):
            publisher.publish(job(name))
        subscription = broker.subscribe("jobs")
        rabbitmq_node.control("set_vm_memory_high_watermark", "0.00001")
        try:
            with pytest.raises(Transient, match="accepts no messages at present: low on memory"):
                publisher.publish(job("three"))
            assert work_off(subscription, 2) == ["one", "two"]
        finally:
            rabbitmq_node.control("set_vm_memory_high_watermark", "0.6")
        publisher.publish(job("four"))
        assert "four" in work_off(subscription, 2)
    finally:
        publisher.close()


def test_a_message_of_a_plain_client_is_received(rabbitmq_url: str, broker: RabbitBroker) -> None:
    """Somebody else's message may lack an id and headers, or bring headers that are no text."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    channel.basic_publish("work", "job", b"bare")
    odd = {"count": 3, "table": {"a": 1}, "text": "yes", "none": None}
    channel.basic_publish("work", "job", b"odd", pika.BasicProperties(headers=odd))
    connection.close()
    subscription = broker.subscribe("jobs")
    bare = next_of(subscription)
    assert (bare.body, bare.message_id, bare.headers) == (b"bare", None, {})
    bare.ack()
    dressed = next_of(subscription)
    assert dressed.headers == {"count": "3", "text": "yes"}
    dressed.ack()
    wait_for_depth(broker, "jobs", 0)
