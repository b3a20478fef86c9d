"""A delivery held for longer than RabbitMQ's consumer timeout: its channel is closed, and the consumer goes on."""

import time
from collections.abc import Iterator

import pytest

from shared.broker.rabbitmq import RabbitBroker
from tests.contract.broker_contract import PLANT, job, urgent, wait_for_depth
from tests.servers.rabbitmq import RabbitNode

pytestmark = pytest.mark.chaos

TIMEOUT_MS = 2000
SWEEP_LIMIT_S = 20.0


@pytest.fixture(scope="module")
def impatient_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node that gives a consumer two seconds, and looks every second."""
    node = RabbitNode(tmp_path_factory.mktemp("impatient"), settings=f"consumer_timeout = {TIMEOUT_MS}")
    try:
        node.start()
        node.control("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
        yield node
    finally:
        node.stop()


@pytest.mark.parametrize("queues", [("jobs",), ("urgent", "jobs")])
def test_a_consumer_that_is_too_slow_gets_the_message_again_and_goes_on(
    impatient_node: RabbitNode, queues: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The server takes the message back, counted; the late acknowledgement is ignored; the next message comes."""
    with impatient_node.virtual_host() as vhost:
        broker = RabbitBroker(impatient_node.url_of(vhost))
        try:
            broker.declare(PLANT)
            broker.publish(job("slow"))
            subscription = broker.subscribe(*queues)
            late = subscription.receive(SWEEP_LIMIT_S)
            assert late is not None
            again = subscription.receive(SWEEP_LIMIT_S)
            assert again is not None
            assert (again.message_id, again.deliveries) == ("slow", 1)
            assert "PRECONDITION_FAILED" in caplog.text
            late.ack()
            wait_for_depth(broker, "jobs", 0)
            again.ack()
            broker.publish(job("next"))
            following = subscription.receive(SWEEP_LIMIT_S)
            assert following is not None
            assert following.message_id == "next"
            following.ack()
        finally:
            broker.close()


def test_work_within_the_timeout_is_never_taken_back(impatient_node: RabbitNode) -> None:
    """Message after message, each for less than the timeout, for several of its sweeps."""
    with impatient_node.virtual_host() as vhost:
        broker = RabbitBroker(impatient_node.url_of(vhost))
        try:
            broker.declare(PLANT)
            subscription = broker.subscribe("urgent", "jobs")
            for number in range(10):
                broker.publish(urgent(str(number)) if number % 2 else job(str(number)))
                delivery = subscription.receive(SWEEP_LIMIT_S)
                assert delivery is not None
                time.sleep(TIMEOUT_MS / 1000 * 0.25)  # the work
                assert (delivery.message_id, delivery.deliveries) == (str(number), 0)
                delivery.ack()
            wait_for_depth(broker, "jobs", 0)
        finally:
            broker.close()
