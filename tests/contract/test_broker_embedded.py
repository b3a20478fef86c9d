"""The embedded broker keeps the contract of brokers, and does so without polling."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Broker
from tests.contract.broker_contract import PLANT, BrokerContract, Connect, job, work_off


class TestEmbeddedBroker(BrokerContract):
    """All of the contract, on a namespace of this test's own."""

    @pytest.fixture
    def new_connection(self) -> Connect:
        name = uuid.uuid4().hex
        return lambda: EmbeddedBroker(name)

    def test_waiting_costs_no_processor_time(self, broker: Broker) -> None:
        """A receiver and the clock of the TTL queues sleep until something happens."""
        subscription = broker.subscribe("jobs")
        before = time.process_time()
        assert subscription.receive(1.0) is None
        assert time.process_time() - before < 0.1

    def test_a_waiting_receiver_gets_a_message_at_once(self, broker: Broker) -> None:
        """A hundred messages to a receiver in another thread take less than the second kombu's own consumers sleep."""
        subscription = broker.subscribe("jobs")
        before = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            for number in range(100):
                waiting = pool.submit(work_off, subscription, 1)
                broker.publish(job(str(number)))
                assert waiting.result() == [str(number)]
        assert time.monotonic() - before < 1.0


def test_brokers_without_a_name_are_alone() -> None:
    """Two of them in one process share nothing, though kombu's memory is one for all."""
    one, other = EmbeddedBroker(), EmbeddedBroker()
    try:
        one.declare(PLANT)
        other.declare(PLANT)
        one.publish(job("mine"))
        assert (one.depth("jobs"), other.depth("jobs")) == (1, 0)
    finally:
        one.close()
        other.close()
