"""The RabbitMQ adapter keeps the contract of brokers, on a real node."""

import pytest

from shared.broker.rabbitmq import RabbitBroker
from tests.contract.broker_contract import BrokerContract, Connect


class TestRabbitBroker(BrokerContract):
    """All of the contract, on a virtual host of this test's own."""

    @pytest.fixture
    def new_connection(self, rabbitmq_url: str) -> Connect:
        return lambda: RabbitBroker(rabbitmq_url)
