"""What any broker must do. Each adapter's test module subclasses `BrokerContract` and says how to connect."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from shared.broker.port import Broker, Delivery, Exchange, Outgoing, Queue, Subscription, Topology
from shared.broker.topology import retry_queue, topology, work_queues
from shared.contracts.errors import Permanent, QueueFull, Transient

SOON_S = 10.0
QUIET_S = 0.3
PAUSE_MS = 400
SMALL = 5

Connect = Callable[[], Broker]

PLANT = Topology(
    exchanges=(Exchange("work", "direct"), Exchange("news", "topic"), Exchange("orders", "fanout")),
    queues=(
        Queue("jobs.dead"),
        Queue("jobs", bindings=(("work", "job"),), dead_letter=("", "jobs.dead")),
        Queue("urgent", bindings=(("work", "urgent"),), dead_letter=("", "jobs.dead")),
        Queue("small", bindings=(("work", "small"),), dead_letter=("", "jobs.dead"), max_length=SMALL),
        Queue("jobs.later", ttl_ms=PAUSE_MS, dead_letter=("work", "job")),
        Queue("archive", bindings=(("news", "#"),)),
    ),
)


def job(name: str, body: bytes = b"{}", **headers: str) -> Outgoing:
    """A message to the queue `jobs`."""
    return Outgoing("work", "job", body, name, headers)


def urgent(name: str) -> Outgoing:
    """A message to the queue `urgent`."""
    return Outgoing("work", "urgent", b"{}", name)


def next_of(subscription: Subscription) -> Delivery:
    """The next message, which must come soon."""
    delivery = subscription.receive(SOON_S)
    assert delivery is not None, "no message came"
    return delivery


def whose(one: Subscription, other: Subscription) -> tuple[Subscription, Delivery]:
    """Find which of two subscriptions got the message that is under way; returns the idle one, and the message."""
    for busy, idle in itertools.islice(itertools.cycle([(one, other), (other, one)]), 200):
        held = busy.receive(0.05)
        if held is not None:
            return idle, held
    raise AssertionError("no message came")


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


def fill(broker: Broker, queue: str) -> list[str]:
    """Publish until the queue refuses, which must come soon; returns the ids that were confirmed."""
    confirmed: list[str] = []
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        try:
            broker.publish(Outgoing("work", queue, b"{}", str(len(confirmed))))
        except QueueFull:
            return confirmed
        confirmed.append(str(len(confirmed)))
    raise AssertionError(f"{queue} took {len(confirmed)} messages and is not full")


def publish_when_there_is_room(broker: Broker, message: Outgoing) -> None:
    """Publish, again and again while the queue is full."""
    until = time.monotonic() + SOON_S
    while True:
        try:
            return broker.publish(message)
        except QueueFull:
            assert time.monotonic() < until, "the queue never took anything again"
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

    # Bounded queues

    def test_a_full_queue_says_so_and_keeps_what_it_confirmed(self, broker: Broker) -> None:
        """A few more than the limit may be taken, no more; every confirmed message comes out, no refused one does."""
        confirmed = fill(broker, "small")
        assert SMALL <= len(confirmed) <= SMALL + 5
        assert work_off(broker.subscribe("small"), len(confirmed)) == confirmed
        assert broker.depth("small") == 0

    def test_a_full_queue_takes_messages_again_when_it_is_worked_off(self, broker: Broker) -> None:
        confirmed = fill(broker, "small")
        subscription = broker.subscribe("small")
        work_off(subscription, len(confirmed))
        publish_when_there_is_room(broker, Outgoing("work", "small", b"{}", "again"))
        assert work_off(subscription, 1) == ["again"]

    def test_a_full_queue_is_no_hindrance_to_others(self, broker: Broker) -> None:
        """Its refusal is Transient, and messages under way to other queues are confirmed."""
        fill(broker, "small")
        futures = [broker.send(message) for message in (job("a"), Outgoing("work", "small", b"{}", "no"), job("b"))]
        wait(futures, SOON_S)
        assert [type(future.exception(0)) for future in futures] == [type(None), QueueFull, type(None)]
        assert issubclass(QueueFull, Transient)

    def test_a_full_queue_takes_back_what_it_handed_out(self, broker: Broker) -> None:
        """Handing back is not publishing."""
        confirmed = fill(broker, "small")
        subscription = broker.subscribe("small")
        next_of(subscription).requeue()
        assert sorted(str(name) for name in work_off(subscription, len(confirmed))) == sorted(confirmed)

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

    # Counting deliveries

    def test_a_new_message_was_never_delivered_before(self, broker: Broker) -> None:
        """The count is a property, not a header that a republished message would carry along."""
        broker.publish(job("one"))
        delivery = next_of(broker.subscribe("jobs"))
        assert delivery.deliveries == 0
        assert "x-delivery-count" not in delivery.headers
        delivery.ack()

    def test_deliveries_are_counted_when_the_message_comes_back(self, broker: Broker, connect: Connect) -> None:
        """A crash counts; a subscription to several queues tells the same as one to a single queue."""
        broker.publish(job("one"))
        for crashes in range(2):
            other = connect()
            delivery = next_of(other.subscribe("urgent", "jobs"))
            assert delivery.deliveries == crashes
            other.close()
        delivery = next_of(broker.subscribe("jobs"))
        assert (delivery.deliveries, delivery.redelivered) == (2, True)
        assert "x-delivery-count" not in delivery.headers
        delivery.ack()

    def test_a_failed_delivery_comes_again_and_counts(self, broker: Broker) -> None:
        """On a queue that does not delay by itself it comes at once; a delivery fails once."""
        broker.publish(job("one"))
        subscription = broker.subscribe("jobs")
        first = next_of(subscription)
        first.fail()
        again = next_of(subscription)
        first.fail()
        assert (again.message_id, again.deliveries) == ("one", 1)
        again.ack()

    def test_a_republished_message_is_a_new_one(self, broker: Broker) -> None:
        """A worker that hands back by publishing again and acknowledging leaves no count behind."""
        broker.publish(job("one"))
        subscription = broker.subscribe("jobs")
        next_of(subscription).requeue()
        again = next_of(subscription)
        broker.publish(Outgoing("", "jobs", again.body, "one", again.headers))
        again.ack()
        last = next_of(subscription)
        assert (last.deliveries, last.redelivered) == (0, False)
        last.ack()

    # Precedence

    def test_the_first_named_queue_goes_first(self, broker: Broker) -> None:
        """All that waits in it comes before anything of the second, whatever came earlier."""
        for name in ("slow 1", "slow 2"):
            broker.publish(job(name))
        for name in ("fast 1", "fast 2"):
            broker.publish(urgent(name))
        assert work_off(broker.subscribe("urgent", "jobs"), 4) == ["fast 1", "fast 2", "slow 1", "slow 2"]

    def test_an_urgent_message_overtakes_those_that_wait(self, broker: Broker) -> None:
        """It is the next one after that in hand."""
        for name in ("slow 1", "slow 2", "slow 3"):
            broker.publish(job(name))
        subscription = broker.subscribe("urgent", "jobs")
        first = next_of(subscription)
        broker.publish(urgent("fast"))
        first.ack()
        assert [first.message_id, *work_off(subscription, 3)] == ["slow 1", "fast", "slow 2", "slow 3"]

    def test_either_queue_wakes_a_receiver(self, broker: Broker) -> None:
        subscription = broker.subscribe("urgent", "jobs")
        assert subscription.receive(QUIET_S) is None
        for message in (job("slow"), urgent("fast"), job("slow again")):
            broker.publish(message)
            assert work_off(subscription, 1) == [message.message_id]

    def test_one_message_at_a_time_whichever_queue_it_is_of(self, broker: Broker) -> None:
        """Neither queue's next message comes before this one is settled."""
        subscription = broker.subscribe("urgent", "jobs")
        broker.publish(job("slow 1"))
        first = next_of(subscription)
        broker.publish(urgent("fast"))
        broker.publish(job("slow 2"))
        assert subscription.receive(QUIET_S) is None
        first.requeue()
        assert work_off(subscription, 3) == ["fast", "slow 1", "slow 2"]

    def test_a_busy_receiver_keeps_nothing_from_the_others(self, broker: Broker, connect: Connect) -> None:
        """While one works on a message of either queue, those that follow in both go to whoever is idle."""
        one, other = broker.subscribe("urgent", "jobs"), connect().subscribe("urgent", "jobs")
        for message in (job("slow"), urgent("fast")):
            broker.publish(message)
            idle, held = whose(one, other)
            wait_for_depth(broker, "jobs", 0)
            for follower in (urgent("next fast"), job("next slow")):
                broker.publish(follower)
                assert work_off(idle, 1) == [follower.message_id]
            held.ack()

    # Sweeping

    def test_a_sweep_removes_what_is_doomed_and_keeps_the_rest_in_order(self, broker: Broker) -> None:
        """The rest keep body, id and headers."""
        for number in range(20):
            broker.publish(job(str(number), b"odd" if number % 2 else b"even", kind=str(number)))
        assert broker.sweep("jobs", lambda body: body == b"odd") == 10
        subscription = broker.subscribe("jobs")
        for number in range(0, 20, 2):
            delivery = next_of(subscription)
            assert (delivery.message_id, delivery.body, delivery.deliveries) == (str(number), b"even", 0)
            assert delivery.headers["kind"] == str(number)
            delivery.ack()
        assert subscription.receive(QUIET_S) is None

    def test_a_sweep_looks_at_each_message_once(self, broker: Broker) -> None:
        """What it puts back it does not look at again, and an empty queue is no trouble."""
        for number in range(5):
            broker.publish(job(str(number), str(number).encode()))
        seen: list[bytes] = []

        def keep(body: bytes) -> bool:
            seen.append(body)
            return False

        assert broker.sweep("jobs", keep) == 0
        assert seen == [b"0", b"1", b"2", b"3", b"4"]
        assert broker.sweep("urgent", lambda _body: True) == 0

    def test_a_sweep_leaves_what_is_in_hand(self, broker: Broker) -> None:
        """A message that a consumer has is that consumer's."""
        for name in ("one", "two"):
            broker.publish(job(name))
        held = next_of(broker.subscribe("jobs"))
        assert broker.sweep("jobs", lambda _body: True) == 1
        wait_for_depth(broker, "jobs", 0)
        held.ack()

    def test_a_sweep_reaches_messages_that_wait_for_their_time(self, broker: Broker) -> None:
        """Those that stay still come in the end."""
        for name in ("gone", "stays"):
            broker.publish(Outgoing("", "jobs.later", name.encode(), name))
        assert broker.sweep("jobs.later", lambda body: body == b"gone") == 1
        assert work_off(broker.subscribe("jobs"), 1) == ["stays"]

    def test_a_sweep_that_fails_loses_nothing(self, broker: Broker) -> None:
        """The error is the judge's own, and everything is still there."""
        for name in ("a", "b", "c"):
            broker.publish(job(name, name.encode()))

        def stumble(body: bytes) -> bool:
            if body == b"b":
                raise ValueError("unreadable")
            return False

        with pytest.raises(ValueError, match="unreadable"):
            broker.sweep("jobs", stumble)
        wait_for_depth(broker, "jobs", 3)
        assert {str(name) for name in work_off(broker.subscribe("jobs"), 3)} == {"a", "b", "c"}

    def test_sweeping_a_missing_queue_is_an_error(self, broker: Broker) -> None:
        with pytest.raises(Transient, match="no queue 'nowhere'"):
            broker.sweep("nowhere", lambda _body: True)

    # Health

    def test_a_broker_in_use_is_well(self, broker: Broker) -> None:
        """Connected, its thread running, every subscription known to the server: waiting, busy and closed ones."""
        broker.publish(job("one"))
        busy, waiting, closed = broker.subscribe("jobs"), broker.subscribe("urgent", "small"), broker.subscribe("jobs")
        closed.close()
        listener = broker.listen("news", ("#",))
        next_of(busy)
        assert waiting.receive(QUIET_S) is None
        health = broker.health()
        assert (health.connected, health.consumers_registered) == (True, True)
        assert 0 <= health.loop_age_s < 3
        listener.close()

    def test_a_closed_broker_is_not_connected(self, broker: Broker) -> None:
        broker.close()
        assert not broker.health().connected

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

    def test_a_broker_that_cannot_delay_retries_says_so_and_names_the_mend(self, broker: Broker) -> None:
        """Asked for native delayed retry, neither the embedded broker nor RabbitMQ before 4.3 declares anything."""
        with pytest.raises(Permanent, match=r"Set retry\.delayed_retry to queues"):
            broker.declare(topology(("swap",), (100, 200), delayed_retry="native"))
        with pytest.raises(Transient, match="no queue"):
            broker.depth("doctorgen.swap.bulk")

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
