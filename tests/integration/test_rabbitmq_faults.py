"""A network that fails between us and RabbitMQ: errors come in time, and service comes back by itself."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from shared.broker.port import Outgoing
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import Transient
from tests.contract.broker_contract import PLANT, SOON_S, job, next_of, wait_for_depth, work_off
from tests.servers.ports import free_ports
from tests.servers.proxy import FaultyProxy
from tests.servers.rabbitmq import RabbitNode

LIMIT_S = 1.0


@pytest.fixture
def proxy(rabbitmq_node: RabbitNode) -> Iterator[FaultyProxy]:
    with FaultyProxy(rabbitmq_node.port) as proxy:
        yield proxy


@pytest.fixture
def broker(rabbitmq_node: RabbitNode, rabbitmq_vhost: str, proxy: FaultyProxy) -> Iterator[RabbitBroker]:
    """A broker behind the proxy, the plant declared, both connections up."""
    broker = RabbitBroker(
        rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port), publish_timeout_s=LIMIT_S, heartbeat_s=1
    )
    broker.declare(PLANT)
    broker.publish(Outgoing("news", "warm", b"{}", "warm"))
    yield broker
    proxy.pass_through()
    broker.close()


def publish_until_confirmed(broker: RabbitBroker, name: str) -> None:
    """Publish again and again; the network has recovered or will soon."""
    until = time.monotonic() + SOON_S
    while True:
        try:
            return broker.publish(job(name))
        except Transient:
            assert time.monotonic() < until


def fails_in(limit_s: float, action: Callable[[], object], reason: str) -> None:
    """The action fails with Transient, not much later than its limit."""
    before = time.monotonic()
    with pytest.raises(Transient, match=reason):
        action()
    assert time.monotonic() - before < limit_s + 1.0


def test_a_reset_connection_is_made_anew_and_the_consumer_goes_on(broker: RabbitBroker, proxy: FaultyProxy) -> None:
    """The subscription that stood before receives what is published after."""
    subscription = broker.subscribe("jobs")
    publish_until_confirmed(broker, "before")
    held = next_of(subscription)
    proxy.reset()
    publish_until_confirmed(broker, "after")
    again = next_of(subscription)
    assert (again.message_id, again.redelivered) == ("before", True)
    held.ack()
    assert subscription.receive(0.3) is None, "a stale acknowledgement settled another delivery"
    again.ack()
    assert work_off(subscription, 1) == ["after"]
    wait_for_depth(broker, "jobs", 0)


def test_a_black_hole_is_an_error_within_the_time_limit(broker: RabbitBroker, proxy: FaultyProxy) -> None:
    """No publish waits longer than its limit on a connection that swallows everything, and then service resumes."""
    proxy.black_hole()
    fails_in(LIMIT_S, lambda: broker.publish(job("swallowed")), "no answer in 1 s")
    proxy.pass_through()
    publish_until_confirmed(broker, "after")
    assert "after" in work_off(broker.subscribe("jobs"), broker.depth("jobs"))


def test_publishes_under_way_fail_when_the_connection_is_lost(broker: RabbitBroker, proxy: FaultyProxy) -> None:
    """All of them, at once, and none of them is published again behind the caller's back."""
    proxy.black_hole()
    futures = [broker.send(job(str(number))) for number in range(20)]
    proxy.reset()
    assert not wait(futures, LIMIT_S * 0.9).not_done
    assert all(isinstance(future.exception(), Transient) for future in futures)
    proxy.pass_through()
    publish_until_confirmed(broker, "after")
    assert broker.depth("jobs") == 1


def test_a_message_sent_while_disconnected_goes_out_on_the_next_connection(
    rabbitmq_node: RabbitNode, rabbitmq_url: str, rabbitmq_vhost: str, proxy: FaultyProxy
) -> None:
    """It was never written, so it can wait for its time limit without the risk of coming twice."""
    straight = RabbitBroker(rabbitmq_url)
    broken = RabbitBroker(rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port), publish_timeout_s=SOON_S)
    try:
        straight.declare(PLANT)
        proxy.refuse()
        future = broken.send(job("patient"))
        assert wait([future], 0.5).not_done
        proxy.pass_through()
        future.result(SOON_S)
        assert straight.depth("jobs") == 1
    finally:
        straight.close()
        broken.close()


def test_an_unreachable_broker_is_an_error_within_the_time_limit() -> None:
    """Publishing, asking and listening all say so, and why; nothing hangs, not even closing."""
    (port,) = free_ports(1)
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}/", publish_timeout_s=0.5, call_timeout_s=0.5)
    fails_in(0.5, lambda: broker.publish(job("nowhere")), "no connection to RabbitMQ in 0.5 s .*refused")
    fails_in(0.5, lambda: broker.depth("jobs"), "did not answer in 0.5 s.*refused")
    fails_in(0.5, lambda: broker.listen("news", ("#",)), "Could not listen to news in 0.5 s.*refused")
    subscription = broker.subscribe("jobs")
    assert subscription.receive(0.1) is None
    broker.close()


def test_closing_ends_every_wait() -> None:
    """Threads that ask, listen or receive when the broker is closed come back at once."""
    (port,) = free_ports(1)
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}/")
    with ThreadPoolExecutor(3) as pool:
        asking = pool.submit(broker.depth, "jobs")
        listening = pool.submit(broker.listen, "news", ("#",))
        receiving = pool.submit(broker.subscribe("jobs").receive)
        everyone: list[Future[Any]] = [asking, listening, receiving]
        assert not wait(everyone, 0.3).done
        broker.close()
        assert isinstance(asking.exception(SOON_S), Transient)
        assert isinstance(listening.exception(SOON_S), Transient)
        assert receiving.result(SOON_S) is None


def test_a_black_holed_connection_attempt_is_given_up_and_tried_again(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, proxy: FaultyProxy
) -> None:
    """A server that accepts and says nothing does not hold us for ever."""
    proxy.black_hole()
    url = rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port)
    broker = RabbitBroker(url, connect_timeout_s=0.5, call_timeout_s=0.5)
    try:
        fails_in(0.5, lambda: broker.declare(PLANT), "did not answer in 0.5 s when asked to declare the topology")
        proxy.pass_through()
        wait_until_declared(broker)
    finally:
        broker.close()


def wait_until_declared(broker: RabbitBroker) -> None:
    """Declare the plant, again and again."""
    until = time.monotonic() + SOON_S
    while True:
        try:
            return broker.declare(PLANT)
        except Transient:
            assert time.monotonic() < until


def test_closing_does_not_wait_for_a_silent_server(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, proxy: FaultyProxy
) -> None:
    """A worker can stop while the network is gone; what it could not publish is told, not forgotten."""
    url = rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port)
    broker = RabbitBroker(url, close_timeout_s=0.3)
    broker.declare(PLANT)
    proxy.black_hole()
    lost = broker.send(job("lost"))
    before = time.monotonic()
    broker.close()
    assert time.monotonic() - before < 2.0
    assert "the broker was closed first" in str(lost.exception(0))


def test_a_slow_network_only_slows_things_down(broker: RabbitBroker, proxy: FaultyProxy) -> None:
    """A round trip of 0.4 s breaks nothing."""
    proxy.delay(0.2)
    broker.publish(job("slow"))
    delivery = next_of(broker.subscribe("jobs"))
    assert delivery.message_id == "slow"
    delivery.ack()


def test_a_refused_password_is_told_and_never_shown(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error nor any log line, pika's included, holds it."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pika").setLevel(logging.DEBUG)
    broker = RabbitBroker(rabbitmq_node.url_of(rabbitmq_vhost, user="guest:geheim"), call_timeout_s=1.5)
    try:
        with pytest.raises(Transient, match="refused") as caught:
            broker.depth("jobs")
        assert "geheim" not in str(caught.value)
        assert "geheim" not in caplog.text
        assert "Trying again" in caplog.text
    finally:
        broker.close()
        logging.getLogger("pika").setLevel(logging.CRITICAL)
