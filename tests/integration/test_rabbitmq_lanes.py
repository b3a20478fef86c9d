"""One subscription to two queues on RabbitMQ: under load, on a failing network, with queues that come and go."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.broker.port import Delivery, Outgoing, Subscription
from shared.broker.rabbitmq import RabbitBroker
from shared.contracts.errors import Transient
from tests.contract.broker_contract import PLANT, SOON_S, job, next_of, urgent, wait_for_depth, work_off
from tests.servers.proxy import FaultyProxy
from tests.servers.rabbitmq import RabbitNode

ROUNDS = 150


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url)
    broker.declare(PLANT)
    yield broker
    broker.close()


def work(subscription: Subscription, done: list[Delivery], enough: threading.Event) -> None:
    """Work off whatever comes until there is enough."""
    while not enough.is_set():
        delivery = subscription.receive(0.1)
        if delivery is not None:
            done.append(delivery)
            delivery.ack()


def test_messages_of_both_queues_at_once_come_once_and_uncounted(rabbitmq_url: str, broker: RabbitBroker) -> None:
    """Pairs that reach idle receivers together, again and again: none lost, doubled, or counted as delivered before.

    This is where one receiver is given two messages, and must hand one back without its being counted.
    """
    done: list[Delivery] = []
    enough = threading.Event()
    workers = [RabbitBroker(rabbitmq_url) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            for worker in workers:
                pool.submit(work, worker.subscribe("urgent", "jobs"), done, enough)
            try:
                for number in range(ROUNDS):
                    pair = [broker.send(job(f"slow {number}")), broker.send(urgent(f"fast {number}"))]
                    for future in pair:
                        future.result(SOON_S)
                    await_count(done, 2 * (number + 1))
            finally:
                enough.set()
    finally:
        for worker in workers:
            worker.close()
    wanted = {f"{kind} {number}" for kind in ("slow", "fast") for number in range(ROUNDS)}
    assert Counter(delivery.message_id for delivery in done) == Counter(wanted)
    assert {(delivery.deliveries, delivery.redelivered) for delivery in done} == {(0, False)}


def await_count(done: list[Delivery], count: int) -> None:
    until = time.monotonic() + SOON_S
    while len(done) < count:
        assert time.monotonic() < until, f"{count - len(done)} messages did not come"
        time.sleep(0.001)


def test_a_lost_connection_is_made_anew_whatever_the_subscription_is_doing(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, broker: RabbitBroker
) -> None:
    """Idle, with a message in hand, and just after settling one: the next message comes, a stale one is no trouble."""
    with FaultyProxy(rabbitmq_node.port) as proxy:
        worker = RabbitBroker(rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port))
        try:
            subscription = worker.subscribe("urgent", "jobs")
            assert subscription.receive(0.3) is None
            proxy.reset()
            broker.publish(job("after idling"))
            held = next_of(subscription)
            proxy.reset()
            again = next_of(subscription)
            assert (again.message_id, again.deliveries) == ("after idling", 1)
            held.ack()
            assert subscription.receive(0.3) is None, "a stale acknowledgement set the next message free"
            again.ack()
            proxy.reset()
            broker.publish(urgent("at last"))
            last = next_of(subscription)
            if last.message_id == "after idling":  # its acknowledgement may have been cut off
                last.ack()
                last = next_of(subscription)
            assert last.message_id == "at last"
        finally:
            worker.close()


def test_one_of_the_queues_may_be_deleted_and_made_anew(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, broker: RabbitBroker
) -> None:
    """The other queue's messages still come, and in the end those of the new one."""
    subscription = broker.subscribe("urgent", "jobs")
    assert subscription.receive(0.3) is None
    rabbitmq_node.api("DELETE", f"/queues/{rabbitmq_vhost}/jobs")
    broker.publish(urgent("one"))
    assert work_off(subscription, 1) == ["one"]
    broker.declare(PLANT)
    broker.publish(job("two"))
    assert work_off(subscription, 1) == ["two"]


def test_queues_that_do_not_exist_yet_are_consumed_when_they_do(rabbitmq_url: str) -> None:
    """A worker may start before whoever declares, and says until then that it does not stand."""
    worker = RabbitBroker(rabbitmq_url)
    try:
        subscription = worker.subscribe("urgent", "jobs")
        assert subscription.receive(0.5) is None
        assert not worker.health().consumers_registered
        worker.declare(PLANT)
        worker.publish(job("first"))
        assert work_off(subscription, 1) == ["first"]
        assert worker.health().consumers_registered
    finally:
        worker.close()


def test_a_busy_worker_is_no_consumer_of_the_server_and_still_stands(broker: RabbitBroker) -> None:
    """With a message in hand it consumes nothing more, on purpose: that is health."""
    broker.publish(job("one"))
    held = next_of(broker.subscribe("urgent", "jobs"))
    assert broker.health().consumers_registered
    held.ack()


def test_closing_while_looking_gives_everything_back(rabbitmq_url: str, broker: RabbitBroker) -> None:
    """A worker that closes right after settling leaves the next message to others."""
    for number in range(20):
        broker.publish(job(str(number)))
        broker.publish(job(f"{number} next"))
        worker = RabbitBroker(rabbitmq_url)
        subscription = worker.subscribe("urgent", "jobs")
        next_of(subscription).ack()
        subscription.close()
        worker.close()
        wait_for_depth(broker, "jobs", 1)
        work_off_all = broker.subscribe("jobs")
        work_off(work_off_all, 1)
        work_off_all.close()
        wait_for_depth(broker, "jobs", 0)


def test_a_sweep_that_loses_its_connection_loses_no_message(
    rabbitmq_node: RabbitNode, rabbitmq_vhost: str, broker: RabbitBroker
) -> None:
    """Cut in the middle, it fails with Transient; all that was to stay is there, at worst twice; sweep again."""
    names = [str(number) for number in range(60)]
    for name in names:
        broker.publish(job(name, name.encode()))
    with FaultyProxy(rabbitmq_node.port) as proxy:
        sweeping = RabbitBroker(
            rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port), publish_timeout_s=1, call_timeout_s=1
        )
        try:
            looked = 0

            def doomed(body: bytes) -> bool:
                nonlocal looked
                looked += 1
                if looked == 30:
                    proxy.reset()
                return int(body) % 3 == 0

            with pytest.raises(Transient):
                sweeping.sweep("jobs", doomed)
        finally:
            sweeping.close()
    broker.sweep("jobs", lambda body: int(body) % 3 == 0)
    kept = {name for name in names if int(name) % 3}
    left = work_off(broker.subscribe("jobs"), broker.depth("jobs"))
    assert set(left) == kept
    assert max(Counter(left).values()) <= 2


def test_health_tells_of_a_server_that_is_away(rabbitmq_node: RabbitNode, rabbitmq_vhost: str) -> None:
    """Not connected, not registered, the thread alive; and well again when the server is back."""
    with FaultyProxy(rabbitmq_node.port) as proxy:
        broker = RabbitBroker(rabbitmq_node.url_of(rabbitmq_vhost, port=proxy.port))
        try:
            assert not broker.health().connected
            broker.declare(PLANT)
            subscription = broker.subscribe("urgent", "jobs")
            broker.publish(job("one"))
            work_off(subscription, 1)
            assert broker.health().connected
            proxy.refuse()
            await_health(broker, well=False)
            assert broker.health().loop_age_s < 3
            proxy.pass_through()
            await_health(broker, well=True)
        finally:
            broker.close()


def await_health(broker: RabbitBroker, *, well: bool) -> None:
    until = time.monotonic() + SOON_S
    while True:
        health = broker.health()
        if (health.connected, health.consumers_registered) == (well, well):
            return
        assert time.monotonic() < until, health
        time.sleep(0.01)


def test_a_long_queue_is_swept_in_reasonable_time(broker: RabbitBroker) -> None:
    """A thousand messages, half of them doomed."""
    for future in [broker.send(Outgoing("work", "job", str(number).encode(), str(number))) for number in range(1000)]:
        future.result(SOON_S)
    before = time.monotonic()
    assert broker.sweep("jobs", lambda body: int(body) % 2 == 0) == 500
    assert time.monotonic() - before < 20
    wait_for_depth(broker, "jobs", 500)


@pytest.mark.parametrize("queues", [("jobs",), ("urgent", "jobs")])
@pytest.mark.parametrize("whole_broker", [False, True])
def test_what_nobody_received_goes_back_uncounted(
    rabbitmq_url: str, broker: RabbitBroker, queues: tuple[str, ...], whole_broker: bool
) -> None:
    """A worker that is told to stop just when a message reaches it leaves no mark on the message."""
    worker = RabbitBroker(rabbitmq_url)
    try:
        subscription = worker.subscribe(*queues)
        broker.publish(job("one"))
        wait_for_depth(broker, "jobs", 0)
        if whole_broker:
            worker.close()
        else:
            subscription.close()
        again = next_of(broker.subscribe("jobs"))
        assert (again.message_id, again.deliveries, again.redelivered) == ("one", 0, False)
        again.ack()
    finally:
        worker.close()
