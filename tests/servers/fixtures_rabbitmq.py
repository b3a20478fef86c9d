"""A private RabbitMQ node for the whole run, a fresh virtual host on it for each test that asks, and a cluster."""

from collections.abc import Iterator

import pytest

from tests.servers.rabbitmq import Cluster, RabbitNode


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """Start the node once; a test may kill it if it starts it again."""
    node = RabbitNode(tmp_path_factory.mktemp("rabbitmq"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture
def rabbitmq_vhost(rabbitmq_node: RabbitNode) -> Iterator[str]:
    """Lend an empty virtual host."""
    with rabbitmq_node.virtual_host() as name:
        yield name


@pytest.fixture
def rabbitmq_url(rabbitmq_node: RabbitNode, rabbitmq_vhost: str) -> str:
    """Where to connect to the empty virtual host."""
    return rabbitmq_node.url_of(rabbitmq_vhost)


@pytest.fixture(scope="session")
def rabbitmq_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Form a cluster of three; a test may kill a node if it starts it again."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
