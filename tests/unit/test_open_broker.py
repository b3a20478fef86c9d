"""Opening a broker by its URL."""

import subprocess
import sys

import pytest

from shared.broker.embedded import EmbeddedBroker
from shared.broker.open import open_broker
from shared.broker.port import Exchange, Outgoing, Queue, Topology
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import InvalidInput

ONE_QUEUE = Topology((Exchange("exchange", "direct"),), (Queue("queue", bindings=(("exchange", "key"),)),))


def test_memory_urls_open_the_embedded_broker() -> None:
    broker = open_broker("memory://")
    broker.close()
    assert isinstance(broker, EmbeddedBroker)


def test_amqp_urls_open_rabbitmq_without_connecting() -> None:
    """Opening must not wait for a server: port 9 answers to nobody."""
    broker = open_broker("amqp://user:password@127.0.0.1:9/")
    broker.close()
    assert isinstance(broker, RabbitBroker)


def test_several_amqp_urls_are_one_broker() -> None:
    """The nodes of a cluster, separated by commas; a comma inside a password separates nothing."""
    broker = open_broker("amqp://user:pass,word@127.0.0.1:9/, amqp://user:password@127.0.0.1:10/")
    broker.close()
    assert isinstance(broker, RabbitBroker)


def test_an_unreadable_url_among_several_is_refused() -> None:
    with pytest.raises(InvalidInput, match="broker_url"):
        open_broker("amqp://user:password@host:5672/,amqp://user:password@host:no-port/")


def test_unnamed_memory_brokers_share_nothing() -> None:
    """Two of them in one process have queues of their own."""
    one, other = open_broker("memory://"), open_broker("memory://")
    try:
        for broker in (one, other):
            broker.declare(ONE_QUEUE)
        one.publish(Outgoing("exchange", "key", b"body", "id"))
        assert (one.depth("queue"), other.depth("queue")) == (1, 0)
    finally:
        one.close()
        other.close()


def test_a_named_memory_broker_ends_with_its_last_user() -> None:
    """Whoever opens the name again finds it empty."""
    first = open_broker("memory://name")
    first.declare(ONE_QUEUE)
    first.publish(Outgoing("exchange", "key", b"body", "id"))
    first.close()
    second = open_broker("memory://name")
    try:
        second.declare(ONE_QUEUE)
        assert second.depth("queue") == 0
    finally:
        second.close()


@pytest.mark.parametrize("url", ["kafka://host", "", "localhost:5672"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"broker_url: .*Give amqp://"):
        open_broker(url)


def test_an_unreadable_amqp_url_is_refused_without_showing_the_password() -> None:
    with pytest.raises(InvalidInput, match="broker_url") as caught:
        open_broker("amqp://user:geheim@host:no-port/")
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_adapter_is_imported_before_it_is_needed() -> None:
    """The command line must start fast: neither pika nor kombu comes along with `open_broker`."""
    program = "import sys, shared.broker.open; print(sorted({'pika', 'kombu'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
