"""What any broker must do. Each adapter's test module subclasses `BrokerContract` and says how to connect."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from shared.broker.port import Broker, Delivery, Exchange, Outgoing, Queue, Subscription, Topology
from shared.broker.topology import retry_queue, topology, work_queues
from shared.contracts.errors import Permanent, Transient

SOON_S = 10.0
QUIET_S = 0.3
PAUSE_MS = 400

Connect = Callable[[], Broker]

PLANT = Topology(
    exchanges=(Exchange("work", "direct"), Exchange("news", "topic"), Exchange("orders", "fanout")),
    queues=(
        Queue("jobs.dead"),
        Queue("jobs", bindings=(("work", "job"),), dead_letter=("", "jobs.dead")),
        Queue("jobs.later", ttl_ms=PAUSE_MS, dead_letter=("work", "job")),
        Queue("archive", bindings=(("news", "#"),)),
    ),
)


def job(name: str, body: bytes = b"{}", **headers: str) -> Outgoing:
    """A message to the queue `jobs`."""
    return Outgoing("work", "job", body, name, headers)


def next_of(subscription: Subscription) -> Delivery:
    """The next message, which must come soon."""
    delivery = subscription.receive(SOON_S)
    assert delivery is not None, "no message came"
    return delivery


def work_off(subscription: Subscription, count: int) -> list[str | None]:
    """Receive and acknowledge `count` messages; returns their ids."""
    ids = []
    for _ in range(count):
        delivery = next_of(subscription)
        ids.append(delivery.message_id)
        delivery.ack()
    return ids


def wait_for_depth(broker: Broker, queue: str, depth: int) -> None:
    """Wait until so many messages wait in a queue."""
    until = time.monotonic() + SOON_S
    while (found := broker.depth(queue)) != depth:
        assert time.monotonic() < until, f"{queue} holds {found} messages, not {depth}"
        time.sleep(0.01)


def publish_for(seconds: float, broker: Broker, message: Outgoing) -> None:
    """Publish over and over, until it fails or the time is up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        broker.publish(message)


class BrokerContract:
    """The suite. `new_connection` opens one more connection to the same, at first empty, server."""

    @pytest.fixture
    def new_connection(self) -> Connect:
        raise NotImplementedError

    @pytest.fixture
    def connect(self, new_connection: Connect) -> Iterator[Connect]:
        """Connections that are closed after the test."""
        opened: list[Broker] = []

        def connect() -> Broker:
            opened.append(new_connection())
            return opened[-1]

        yield connect
        for broker in opened:
            broker.close()

    @pytest.fixture
    def broker(self, connect: Connect) -> Broker:
        """A connection with the plant declared."""
        broker = connect()
        broker.declare(PLANT)
        return broker

    # Publishing

    def test_a_confirmed_message_arrives_whole(self, broker: Broker) -> None:
        """Body bytes, id, headers and routing key come out as they went in, marked as not delivered before."""
        body = json.dumps({"text": "Ärztin", "n": 1}).encode() + bytes(range(256))
        broker.publish(job("one", body, attempt="3", trace="00-abc"))
        delivery = next_of(broker.subscribe("jobs"))
        assert delivery.body == body
        assert delivery.message_id == "one"
        assert delivery.routing_key == "job"
        assert {name: delivery.headers[name] for name in ("attempt", "trace")} == {"attempt": "3", "trace": "00-abc"}
        assert not delivery.redelivered
        delivery.ack()

    def test_an_empty_body_arrives_empty(self, broker: Broker) -> None:
        """Nothing is made up for a message without content."""
        broker.publish(job("empty", b""))
        assert next_of(broker.subscribe("jobs")).body == b""

    def test_messages_arrive_in_the_order_of_publishing(self, broker: Broker) -> None:
        names = [str(number) for number in range(50)]
        for future in [broker.send(job(name)) for name in names]:
            future.result(SOON_S)
        assert work_off(broker.subscribe("jobs"), 50) == names

    def test_a_mandatory_message_that_no_queue_takes_is_refused(self, broker: Broker) -> None:
        """The error names the message and where it was meant to go, and later messages are not affected."""
        with pytest.raises(Transient, match=r"'stray'.*work.*'nobody'.*no queue takes it"):
            broker.publish(Outgoing("work", "nobody", b"{}", "stray"))
        broker.publish(job("fine"))
        assert work_off(broker.subscribe("jobs"), 1) == ["fine"]

    def test_only_the_unroutable_of_many_messages_is_refused(self, broker: Broker) -> None:
        """A return is laid to the right message's account, even amid others under way with the same id."""
        keys = ["job", "nobody", "job", "nobody", "job"]
        futures = [broker.send(Outgoing("work", key, b"{}", "same")) for key in keys]
        wait(futures, SOON_S)
        assert [isinstance(future.exception(0), Transient) for future in futures] == [key == "nobody" for key in keys]

    def test_an_optional_message_that_no_queue_takes_is_dropped(self, broker: Broker) -> None:
        """Without `mandatory` it is nobody's loss that nobody listens."""
        broker.publish(Outgoing("orders", "", b"{}", "unheard", mandatory=False))
        broker.publish(Outgoing("", "no.such.queue", b"{}", "lost", mandatory=False))

    def test_a_message_to_a_missing_exchange_is_refused(self, broker: Broker) -> None:
        """It fails even when not mandatory, and the broker goes on."""
        with pytest.raises(Transient, match="no exchange 'nowhere'"):
            broker.publish(Outgoing("nowhere", "key", b"{}", "stray", mandatory=False))
        broker.publish(job("fine"))

    def test_the_default_exchange_routes_by_queue_name(self, broker: Broker) -> None:
        broker.publish(Outgoing("", "jobs", b"{}", "direct"))
        assert work_off(broker.subscribe("jobs"), 1) == ["direct"]

    def test_many_threads_may_publish_at_once(self, broker: Broker) -> None:
        """Every confirmed message is there, once."""
        names = {f"{thread}-{number}" for thread in range(8) for number in range(25)}

        def publish(thread: int) -> None:
            for number in range(25):
                broker.publish(job(f"{thread}-{number}"))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, range(8)))
        received = work_off(broker.subscribe("jobs"), 200)
        assert len(received) == 200
        assert set(received) == names

    # Consuming

    def test_the_next_message_comes_only_when_this_one_is_settled(self, broker: Broker) -> None:
        """One subscription holds one message."""
        for name in ("one", "two"):
            broker.publish(job(name))
        subscription = broker.subscribe("jobs")
        first = next_of(subscription)
        assert subscription.receive(QUIET_S) is None
        first.ack()
        assert next_of(subscription).message_id == "two"

    def test_two_subscriptions_share_the_work(self, broker: Broker) -> None:
        """Each gets one of two messages; neither gets both."""
        one, two = broker.subscribe("jobs"), broker.subscribe("jobs")
        for name in ("a", "b"):
            broker.publish(job(name))
        assert {next_of(one).message_id, next_of(two).message_id} == {"a", "b"}

    def test_an_acknowledged_message_is_gone(self, broker: Broker, connect: Connect) -> None:
        """Neither this nor another connection sees it again."""
        other = connect()
        broker.publish(job("one"))
        next_of(broker.subscribe("jobs")).ack()
        broker.close()
        assert other.subscribe("jobs").receive(QUIET_S) is None

    def test_a_message_handed_back_comes_again_and_says_so(self, broker: Broker) -> None:
        broker.publish(job("one", b"body", attempt="1"))
        subscription = broker.subscribe("jobs")
        next_of(subscription).requeue()
        again = next_of(subscription)
        assert (again.message_id, again.body, again.redelivered) == ("one", b"body", True)
        assert again.headers["attempt"] == "1"
        again.ack()

    def test_a_delivery_is_settled_once(self, broker: Broker) -> None:
        """Whatever is asked of it after the first time does nothing."""
        broker.publish(job("one"))
        subscription = broker.subscribe("jobs")
        delivery = next_of(subscription)
        delivery.ack()
        delivery.requeue()
        delivery.ack()
        broker.publish(job("two"))
        assert work_off(subscription, 1) == ["two"]

    def test_a_message_in_the_hands_of_a_lost_connection_returns(self, broker: Broker, connect: Connect) -> None:
        """Closing a broker with an unsettled message gives it to the next consumer; the old handle is dead."""
        broker.publish(job("one"))
        other = connect()
        stale = next_of(other.subscribe("jobs"))
        other.close()
        again = next_of(broker.subscribe("jobs"))
        assert (again.message_id, again.redelivered) == ("one", True)
        stale.ack()
        stale.requeue()
        again.ack()

    def test_receive_gives_up_after_its_timeout(self, broker: Broker) -> None:
        """No message, no wait beyond the time asked for."""
        before = time.monotonic()
        assert broker.subscribe("jobs").receive(0.2) is None
        assert 0.2 <= time.monotonic() - before < 2.0

    def test_closing_a_subscription_wakes_its_receiver(self, broker: Broker) -> None:
        subscription = broker.subscribe("jobs")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(subscription.receive)
            subscription.close()
            assert waiting.result(SOON_S) is None
        assert subscription.receive(SOON_S) is None

    def test_a_message_outlives_its_subscription_in_our_hands(self, broker: Broker) -> None:
        """After closing, the delivery can still be acknowledged, and is gone then."""
        broker.publish(job("one"))
        subscription = broker.subscribe("jobs")
        delivery = next_of(subscription)
        subscription.close()
        delivery.ack()
        broker.publish(job("two"))
        assert work_off(broker.subscribe("jobs"), 1) == ["two"]

    def test_messages_go_to_others_once_a_subscription_is_closed(self, broker: Broker) -> None:
        """A closed subscription keeps nothing that nobody has received from it."""
        closed = broker.subscribe("jobs")
        broker.publish(job("one"))
        closed.close()
        assert work_off(broker.subscribe("jobs"), 1) == ["one"]

    # Waiting rooms

    def test_a_ttl_queue_gives_its_messages_back_in_time(self, broker: Broker) -> None:
        """Not before the delay, soon after it, to the dead-letter target, whole."""
        subscription = broker.subscribe("jobs")
        before = time.monotonic()
        broker.publish(Outgoing("", "jobs.later", b"body", "late", {"attempt": "2"}))
        delivery = next_of(subscription)
        waited_s = time.monotonic() - before
        assert PAUSE_MS / 1000 * 0.95 <= waited_s < PAUSE_MS / 1000 + 2.0
        assert (delivery.message_id, delivery.body, delivery.routing_key) == ("late", b"body", "job")
        assert delivery.headers["attempt"] == "2"
        delivery.ack()

    def test_depth_counts_what_waits(self, broker: Broker) -> None:
        """Messages in a consumer's hands do not count."""
        assert broker.depth("jobs") == 0
        for name in ("one", "two", "three"):
            broker.publish(job(name))
        wait_for_depth(broker, "jobs", 3)
        delivery = next_of(broker.subscribe("jobs"))
        wait_for_depth(broker, "jobs", 2)
        delivery.ack()

    def test_depth_of_a_missing_queue_is_an_error(self, broker: Broker) -> None:
        with pytest.raises(Transient, match="no queue 'nowhere'"):
            broker.depth("nowhere")

    # Listening

    def test_a_listener_hears_the_patterns_it_asked_for(self, broker: Broker) -> None:
        """`*` is one word, `#` any number of words, none included; each message comes once."""
        one_word = broker.listen("news", ("job.*.done",))
        any_words = broker.listen("news", ("job.#", "job.7.#"))
        for key in ("job", "job.7.done", "job.7.x.done", "other.7.done"):
            broker.publish(Outgoing("news", key, b"{}", key))
        assert next_of(one_word).message_id == "job.7.done"
        assert [next_of(any_words).message_id for _ in range(3)] == ["job", "job.7.done", "job.7.x.done"]
        assert one_word.receive(QUIET_S) is None
        assert any_words.receive(0) is None

    def test_every_listener_of_a_fanout_hears_everything(self, broker: Broker, connect: Connect) -> None:
        """On this and on another connection, without settling what came before."""
        listeners = [broker.listen("orders", ("",)), connect().listen("orders", ("",))]
        for name in ("cancel", "drain"):
            broker.publish(Outgoing("orders", "", b"{}", name))
        for listener in listeners:
            assert [next_of(listener).message_id for _ in range(2)] == ["cancel", "drain"]

    def test_a_listener_hears_nothing_from_before(self, broker: Broker) -> None:
        broker.publish(Outgoing("news", "job.1", b"{}", "before"))
        listener = broker.listen("news", ("#",))
        broker.publish(Outgoing("news", "job.1", b"{}", "after"))
        delivery = next_of(listener)
        assert delivery.message_id == "after"
        delivery.ack()
        delivery.requeue()
        assert listener.receive(QUIET_S) is None

    def test_a_closed_listener_leaves_nothing_behind(self, broker: Broker) -> None:
        """Its private queue is gone: a mandatory message finds no taker."""
        listener = broker.listen("orders", ("",))
        broker.publish(Outgoing("orders", "", b"{}", "heard"))
        listener.close()
        with pytest.raises(Transient, match="no queue takes it"):
            publish_for(SOON_S, broker, Outgoing("orders", "", b"{}", "unheard"))

    # Declaring

    def test_declaring_again_is_harmless(self, broker: Broker) -> None:
        """Messages stay, and routes are not doubled."""
        broker.publish(job("one"))
        broker.declare(PLANT)
        broker.publish(job("two"))
        assert work_off(broker.subscribe("jobs"), 2) == ["one", "two"]

    def test_a_queue_that_stands_with_other_properties_is_reported(self, broker: Broker) -> None:
        """The error is permanent, names the queue, and says what to do."""
        with pytest.raises(Permanent, match=r"(?s)jobs\.later.*other properties.*start again"):
            broker.declare(Topology((), (Queue("jobs.later", ttl_ms=PAUSE_MS + 1, dead_letter=("work", "job")),)))

    def test_an_exchange_that_stands_with_another_type_is_reported(self, broker: Broker) -> None:
        with pytest.raises(Permanent, match=r"(?s)work.*other properties.*start again"):
            broker.declare(Topology((Exchange("work", "topic"),), ()))

    def test_the_house_topology_carries_a_step_through_a_retry(self, broker: Broker) -> None:
        """A step goes to its stage, waits in a retry queue, comes back, and rests in the dead letters."""
        broker.declare(topology(("swap",), (100,)))
        broker.publish(Outgoing("doctorgen.steps", "swap.bulk", b"step", "id"))
        subscription = broker.subscribe(*work_queues("swap"))
        first = next_of(subscription)
        broker.publish(Outgoing("", retry_queue("swap", "bulk", 100), first.body, "id"))
        first.ack()
        second = next_of(subscription)
        broker.publish(Outgoing("", "doctorgen.swap.dead", second.body, "id"))
        second.ack()
        dead = next_of(broker.subscribe("doctorgen.swap.dead"))
        assert dead.body == b"step"
        dead.ack()

    # Closing

    def test_closing_twice_is_harmless_and_wakes_receivers(self, broker: Broker) -> None:
        subscription = broker.subscribe("jobs")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(subscription.receive)
            broker.close()
            assert waiting.result(SOON_S) is None
        broker.close()

    def test_a_closed_broker_refuses_work(self, broker: Broker) -> None:
        """Nobody waits for ever on what cannot happen any more."""
        broker.close()
        with pytest.raises(Transient, match="closed"):
            broker.send(job("late")).result(SOON_S)
        for ask in (
            lambda: broker.subscribe("jobs"),
            lambda: broker.listen("news", ("#",)),
            lambda: broker.depth("jobs"),
            lambda: broker.declare(PLANT),
        ):
            with pytest.raises(Transient, match="closed"):
                ask()

    def test_closing_ends_the_threads(self, broker: Broker) -> None:
        """Nothing of a closed broker goes on running."""
        broker.publish(job("one"))
        next_of(broker.subscribe("jobs")).ack()
        broker.close()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("rabbitmq-", "embedded-"))]
        assert left == []

    def test_what_was_sent_before_closing_is_confirmed(self, broker: Broker, connect: Connect) -> None:
        """Closing waits for confirmations and for acknowledgements under way."""
        other = connect()
        broker.publish(job("worked off"))
        delivery = next_of(broker.subscribe("jobs"))
        futures = [broker.send(job(str(number))) for number in range(20)]
        delivery.ack()
        broker.close()
        assert [future.exception(0) for future in futures] == [None] * 20
        wait_for_depth(other, "jobs", 20)
