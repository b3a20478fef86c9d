"""A message of the gateway's queues is acknowledged once its work is done, and not before."""

import threading

import pytest

from services.gateway.consumer import LONGEST_PAUSE_S, Consumer, pause_s
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Delivery, Outgoing
from shared.broker.topology import JOURNAL, queue_name, topology
from shared.contracts.errors import Transient

QUEUE = queue_name(JOURNAL)
PATIENCE_S = 10.0


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.1), (2, 0.2), (4, 0.8), (50, LONGEST_PAUSE_S)])
def test_pauses_double_up_to_a_limit(failures: int, pause: float) -> None:
    assert pause_s(failures) == pytest.approx(pause)


def test_what_cannot_be_done_now_stays_in_hand_until_it_can() -> None:
    """Not handed back: a queue would count each hand-back, and give the message up in the end."""
    broker = EmbeddedBroker()
    broker.declare(topology())
    tried: list[int] = []
    done = threading.Event()

    def work(delivery: Delivery) -> None:
        tried.append(delivery.deliveries)
        if len(tried) < 3:
            raise Transient("away")
        done.set()

    consumer = Consumer(broker, (QUEUE,), work)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    broker.publish(Outgoing("", QUEUE, b"x", "1"))
    assert done.wait(PATIENCE_S)
    consumer.stop()
    thread.join(PATIENCE_S)
    assert tried == [0, 0, 0]
    assert broker.depth(QUEUE) == 0
    broker.close()


def test_a_stop_hands_back_what_has_to_wait() -> None:
    broker = EmbeddedBroker()
    broker.declare(topology())
    tried = threading.Event()

    def work(_: Delivery) -> None:
        tried.set()
        raise Transient("away")

    consumer = Consumer(broker, (QUEUE,), work)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    broker.publish(Outgoing("", QUEUE, b"x", "1"))
    assert tried.wait(PATIENCE_S)
    consumer.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert broker.depth(QUEUE) == 1
    broker.close()


def test_what_has_been_in_hand_for_long_goes_to_the_end_of_its_queue_as_a_new_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that neither the broker's time limit for consumers nor its count of deliveries ends it."""
    monkeypatch.setattr("services.gateway.consumer.HOLD_S", 0.0)
    broker = EmbeddedBroker()
    broker.declare(topology())
    seen: list[tuple[bytes, int, str]] = []
    done = threading.Event()

    def work(delivery: Delivery) -> None:
        seen.append((delivery.body, delivery.deliveries, delivery.headers["x-kept"]))
        if len(seen) == 1:
            raise Transient("away")
        if len(seen) == 3:
            done.set()

    consumer = Consumer(broker, (QUEUE,), work)
    for name in ("first", "second"):
        broker.publish(Outgoing("", QUEUE, name.encode(), name, {"x-kept": name}))
    thread = threading.Thread(target=consumer.run)
    thread.start()
    assert done.wait(PATIENCE_S)
    consumer.stop()
    thread.join(PATIENCE_S)
    assert seen == [(b"first", 0, "first"), (b"second", 0, "second"), (b"first", 0, "first")]
    broker.close()
