"""What a worker does when things go wrong around it or under it."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from random import Random
from time import monotonic
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from doctor_image_gen.replay import Wish, replay_message
from shared.broker.embedded import EmbeddedBroker
from shared.broker.holding import HOLDS_HEADER
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import CONTROL, EVENTS, dead_queue, queue_name, topology
from shared.contracts.beat import Beat
from shared.contracts.control import Control
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import Permanent, Transient
from shared.contracts.event import TERMINAL, Event
from shared.contracts.step import StepMessage
from shared.models.process import use_residency
from shared.models.residency import Budget, Figures, Residency
from shared.worker.dispatch import Origin, step_outgoing
from shared.worker.figures import NAMES, device_figures
from shared.worker.health import health_told, loaded, ready
from shared.worker.limits import WorkerLimits
from shared.worker.operation import Stage, Work
from shared.worker.retry import RetryPolicy, RetryRule
from shared.worker.settings import WorkerSettings
from shared.worker.turn import Turnstile
from shared.worker.worker import Worker, WorkerSpentError
from tests import synthetic
from tests.fakes import MemoryStore
from tests.synthetic import QA, REFINE, REFINE_ON_DEVICE, UPSCALE, AppendParams, first_message, ran

SOON = RetryRule(attempts=3, base_delay_ms=1)
KINDS = ("Transient", "StepTimedOut", "WorkerCrashed", "IntegrityError", "ResourceExhausted", "DevicePoisoned")
POLICY = RetryPolicy(rules=dict.fromkeys(KINDS, SOON), ladder_ms=(5, 10))
NATIVE = POLICY.model_copy(update={"delayed_retry": "native"})
PATIENCE_S = 10.0


class House:
    """A broker, a store, workers in threads, and an ear."""

    def __init__(self) -> None:
        self.policy = POLICY
        self.broker = EmbeddedBroker("worker-faults")
        self.broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
        self.store = MemoryStore()
        self.ear = self.broker.listen(EVENTS, ("job.#",))
        self.beats = self.broker.listen(EVENTS, ("worker.#",))
        self.events: list[Event] = []
        self.raised: list[Exception] = []
        self._running: list[tuple[Worker, threading.Thread]] = []

    def worker(
        self,
        stage: Stage,
        limits: WorkerLimits | None = None,
        broker: EmbeddedBroker | None = None,
        turnstile: Turnstile | None = None,
    ) -> Worker:
        """Start one; what its `run` raises is kept."""
        worker = Worker(
            stage,
            broker or self.broker,
            self.store,
            Origin(f"w-{stage.name}", self.policy),
            usd_per_hour=1,
            limits=limits,
            beat_interval_s=0.05,
            turnstile=turnstile,
            store_pause_s=0.01,
            rng=Random(1),
        )

        def run() -> None:
            try:
                worker.run()
            except Exception as error:  # noqa: BLE001 - what ends a worker
                self.raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self._running.append((worker, thread))
        return worker

    def publish(self, message: StepMessage) -> None:
        self.broker.publish(step_outgoing(message))

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        while (delivery := self.ear.receive(PATIENCE_S)) is not None:
            event = Event.from_json(delivery.body)
            self.events.append(event)
            if wanted(event):
                return event
        raise AssertionError(f"nothing more happened after {[event.kind for event in self.events]}")

    def until_ended(self, job_id: str = "job-1") -> Event:
        return self.until(lambda event: event.job_id == job_id and event.kind in TERMINAL)

    def dead_letter(self, stage: str) -> DeadLetter:
        return DeadLetter.from_json(taken(self.broker.subscribe(dead_queue(stage))))

    def beat_that(self, is_so: Callable[[Beat], bool]) -> Beat:
        while (delivery := self.beats.receive(PATIENCE_S)) is not None:
            beat = Beat.from_json(delivery.body)
            if is_so(beat):
                return beat
        raise AssertionError("no such beat came")

    def join(self) -> None:
        for _, thread in self._running:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def close(self) -> None:
        for worker, _ in self._running:
            worker.stop()
        self.join()
        self.broker.close()


def taken(subscription: Subscription) -> bytes:
    delivery = subscription.receive(PATIENCE_S)
    assert delivery is not None
    delivery.ack()
    subscription.close()
    return delivery.body


def die_of_a_message() -> None:
    """What the broker sees of a process that takes a message and is killed."""
    victim = EmbeddedBroker("worker-faults")
    subscription = victim.subscribe(queue_name("refine", "interactive"))
    assert subscription.receive(PATIENCE_S) is not None
    victim.close()


@pytest.fixture
def house() -> Iterator[House]:
    ran.clear()
    synthetic.during[0] = lambda _: None
    house = House()
    yield house
    synthetic.during[0] = lambda _: None
    house.close()


@contextmanager
def held() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Every Append stops in its middle: the first event says so, the second lets it go on."""
    inside, go_on = threading.Event(), threading.Event()

    def hold(_: Work[AppendParams]) -> None:
        inside.set()
        go_on.wait(PATIENCE_S)

    synthetic.during[0] = hold
    yield inside, go_on
    go_on.set()
    synthetic.during[0] = lambda _: None


def test_a_step_that_hangs_is_ended_counted_and_left_to_a_fresh_worker(house: House) -> None:
    with held() as (inside, _):
        house.worker(REFINE, WorkerLimits(step_deadline_s=0.1))
        house.publish(first_message(house.store))
        assert inside.wait(PATIENCE_S)
        retrying = house.until(lambda event: event.kind == "retrying")
        house.join()
    assert retrying.error is not None
    assert retrying.error.kind == "StepTimedOut"
    assert "0.1 s" in retrying.error.message
    assert [type(error) for error in house.raised] == [WorkerSpentError]
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    assert house.until_ended().kind == "done"


def test_a_message_that_kills_its_workers_ends_in_the_dead_letters(house: House) -> None:
    """Three processes die of it, as far as the broker can tell; the fourth does not even try."""
    house.publish(first_message(house.store))
    for _ in range(3):
        die_of_a_message()
    house.worker(REFINE)
    assert house.until_ended().kind == "dead"
    letter = house.dead_letter("refine")
    assert (letter.error.kind, letter.attempts) == ("WorkerCrashed", 3)
    assert "3 times" in letter.error.message
    assert ran == []


def test_a_crash_is_an_attempt_and_the_next_worker_goes_on(house: House) -> None:
    house.publish(first_message(house.store))
    die_of_a_message()
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    assert house.until_ended().kind == "done"
    assert [event.attempt for event in house.events if event.step == "one"] == [2, 2]


def test_where_the_broker_delays_by_itself_our_own_count_of_attempts_still_decides(house: House) -> None:
    """Being held back is no attempt, and the accounts of the failed ones travel with the message."""
    errors = [ConnectionError("first"), ConnectionError("second"), ConnectionError("third")]

    def fail(_: Work[AppendParams]) -> None:
        raise errors.pop(0)

    synthetic.during[0] = fail
    house.policy = NATIVE
    house.worker(REFINE)
    house.publish(first_message(house.store))
    assert house.until_ended().kind == "dead"
    letter = house.dead_letter("refine")
    assert (letter.error.kind, letter.attempts) == ("Transient", 3)
    assert letter.message is not None
    assert [failure.error.message for failure in letter.message.failures] == ["first", "third"]
    assert [event.retry_in_s is not None for event in house.events if event.kind == "retrying"] == [True, True]
    assert errors == []


def test_where_the_broker_delays_by_itself_a_crash_is_still_told_from_being_held_back(house: House) -> None:
    """Three processes die of the message once its time has come, as far as the broker can tell."""
    message = first_message(house.store)
    held = {HOLDS_HEADER: "4"}
    house.broker.publish(dataclasses.replace(step_outgoing(message), headers=held))
    for _ in range(4 + 3):
        die_of_a_message()
    house.worker(REFINE)
    assert house.until_ended().kind == "dead"
    letter = house.dead_letter("refine")
    assert (letter.error.kind, letter.attempts) == ("WorkerCrashed", 3)


def test_out_of_memory_is_tried_again_with_the_smaller_plan(house: House) -> None:
    plans: list[int] = []

    def run_out_of_memory(work: Work[AppendParams]) -> None:
        if work.params.word == "a":
            plans.append(work.plan)
            if work.plan < 1:
                raise MemoryError

    synthetic.during[0] = run_out_of_memory
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(first_message(house.store, word="a"))
    done = house.until_ended()
    assert done.kind == "done"
    assert plans == [0, 1]
    assert done.result is not None
    assert house.store.blobs[done.result.image.key] == b"photoa7!", "a smaller plan gives the same bytes"


def test_a_message_of_a_job_with_one_attempt_says_nothing_of_smaller_plans(house: House) -> None:
    """Nobody asks for them, and a worker of the version before would refuse the field."""

    def run_out_of_memory(work: Work[AppendParams]) -> None:
        if work.plan < 1:
            raise MemoryError

    synthetic.during[0] = run_out_of_memory
    house.worker(REFINE)
    house.publish(first_message(house.store, word="a"))
    house.until(lambda event: event.step == "one" and event.kind == "finished")
    sent = json.loads(taken(house.broker.subscribe(queue_name("upscale", "interactive"))))
    assert "plans" not in sent


def test_a_poisoned_device_ends_the_worker_and_the_step_is_tried_elsewhere(house: House) -> None:
    def poison(_: Work[AppendParams]) -> None:
        synthetic.during[0] = lambda _: None
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    synthetic.during[0] = poison
    house.worker(REFINE)
    house.publish(first_message(house.store))
    retrying = house.until(lambda event: event.kind == "retrying")
    house.join()
    assert retrying.error is not None
    assert retrying.error.kind == "DevicePoisoned"
    assert len(house.raised) == 1
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    assert house.until_ended().kind == "done"


def test_an_artifact_found_corrupt_is_made_again_by_its_step(house: House) -> None:
    house.worker(REFINE)
    house.publish(first_message(house.store, word="a"))
    house.until(lambda event: event.step == "one" and event.kind == "finished")
    made = next(key for key, blob in house.store.blobs.items() if blob == b"photoa7")
    house.store.blobs[made] = b"rotten"
    house.worker(UPSCALE)
    house.worker(QA)
    done = house.until_ended()
    assert done.kind == "done"
    assert ran == ["a", "a", "!", "judge"]
    reported = next(event.error for event in house.events if event.kind == "retrying")
    assert reported is not None
    assert reported.kind == "IntegrityError"
    assert house.store.blobs[made] == b"photoa7"


@pytest.mark.parametrize("lost", ["verdict", "picture"])
def test_a_job_whose_every_step_stands_makes_again_what_the_store_has_lost_of_its_result(
    house: House, lost: str
) -> None:
    """No step reads it again, so nobody else would find it missing, however often the job is submitted."""
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(first_message(house.store, word="a"))
    first = house.until_ended().result
    assert first is not None
    ref = first.verdict if lost == "verdict" else first.image
    del house.store.blobs[ref.key]
    house.publish(first_message(house.store, job_id="job-2", word="a"))
    again = house.until_ended("job-2")
    assert again.kind == "done"
    assert again.result is not None
    assert (again.result.image, again.result.verdict) == (first.image, first.verdict)
    assert ref.key in house.store.blobs
    assert ran == ["a", "!", "judge", "judge" if lost == "verdict" else "!"]


class Forgetful(MemoryStore):
    """Takes what a step has made, and has it no more when the next one asks: as often as it is told to."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    def get(self, key: str) -> bytes | None:
        found = super().get(key)
        if found == b"photoa7" and self.losses:
            self.losses -= 1
            return None
        return found


@pytest.mark.parametrize(("losses", "end"), [(2, "done"), (99, "dead")])
def test_what_is_lost_again_and_again_is_made_again_as_often_as_a_step_is_tried(
    house: House, losses: int, end: str
) -> None:
    """The rule for IntegrityError allows three tries of the step that reads it. What made it succeeds each time."""
    house.store = Forgetful(losses)
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(first_message(house.store, word="a"))
    house.until(lambda event: event.kind in TERMINAL or ran.count("a") > 9)
    assert house.events[-1].kind == end
    assert ran.count("a") == 3
    told = [event for event in house.events if event.kind == "retrying"]
    assert [(event.step, event.attempt) for event in told] == [("two", 1), ("two", 2)]
    assert len({event.event_id for event in told}) == 2, "the journal drops none of them"


def test_the_letter_of_what_is_lost_again_and_again_names_the_mend_and_can_be_replayed(house: House) -> None:
    house.store = store = Forgetful(99)
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(first_message(store, word="a"))
    house.until(lambda event: event.kind in TERMINAL or ran.count("a") > 9)
    letter = house.dead_letter("upscale")
    assert (letter.step, letter.attempts, letter.error.kind) == ("two", 3, "IntegrityError")
    assert "missing from the store" in letter.error.message
    assert "its step 'one' had made it again" in letter.error.message
    assert "what deletes or alters objects" in letter.error.hint
    assert letter.message is not None
    assert letter.message.step.name == "one"
    store.losses = 2
    operations = {operation.name: operation for stage in (REFINE, UPSCALE, QA) for operation in stage.operations}
    again = replay_message(letter, letter.message, Wish(), 1, "tester", letter.died_at, operations)
    house.publish(again)
    assert house.until_ended().kind == "done", "its tries are counted anew"


def test_a_lost_input_that_the_store_does_not_let_us_make_again_ends_the_job_and_no_worker(house: House) -> None:
    """As where the bucket's policy allows reading and writing, but no deleting."""

    def refuse(key: str) -> None:
        raise Permanent(f"the store could not delete {key}: AccessDenied")

    house.worker(REFINE)
    house.publish(first_message(house.store, word="a"))
    house.until(lambda event: event.step == "one" and event.kind == "finished")
    made = next(key for key, blob in house.store.blobs.items() if blob == b"photoa7")
    house.store.blobs[made] = b"rotten"
    house.store.delete = refuse  # type: ignore[method-assign]
    house.worker(UPSCALE)
    house.worker(QA)
    assert house.until_ended().kind == "dead"
    assert house.raised == []
    assert "could not delete" in house.dead_letter("upscale").error.message


def test_a_store_that_answers_with_a_refusal_is_no_longer_away(house: House) -> None:
    """As where it may not be asked for what is not there: the steps tell what it refuses, and the worker lives on."""
    get, away = house.store.get, [True]

    def refuse_to_be_asked(key: str) -> bytes | None:
        if key.startswith("inbox/"):
            raise Permanent("AccessDenied")
        if away:
            away.clear()
            raise Transient("connection refused")
        return get(key)

    house.store.get = refuse_to_be_asked  # type: ignore[method-assign]
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(first_message(house.store, word="a"))
    assert house.until_ended().kind == "done"
    assert house.raised == []


def test_a_photo_found_corrupt_cannot_be_made_again_and_is_reported(house: House) -> None:
    message = first_message(house.store)
    (photo,) = message.artifacts["request.photos"]
    house.store.blobs[photo.key] = b"rotten"
    house.worker(REFINE)
    house.publish(message)
    assert house.until_ended().kind == "dead"
    assert house.dead_letter("refine").error.kind == "IntegrityError"
    assert ran == []


def test_a_store_that_is_away_is_waited_out_and_counts_as_no_attempt(house: House) -> None:
    away = threading.Event()
    away.set()
    asked = threading.Semaphore(0)

    class Away(MemoryStore):
        def get(self, key: str) -> bytes | None:
            asked.release()
            if away.is_set():
                raise Transient("connection refused")
            return super().get(key)

    house.store = Away()
    message = first_message(house.store)
    for stage in (REFINE, UPSCALE, QA):
        house.worker(stage)
    house.publish(message)
    for _ in range(4):
        assert asked.acquire(timeout=PATIENCE_S), "it asks again and again"
    away.clear()
    done = house.until_ended()
    assert done.kind == "done"
    assert {event.attempt for event in house.events} == {1}
    assert not [event for event in house.events if event.kind == "retrying"]


def test_a_worker_makes_room_for_a_fresh_one_after_its_steps(house: House) -> None:
    house.worker(REFINE, WorkerLimits(recycle_after_steps=1))
    house.publish(first_message(house.store))
    house.publish(first_message(house.store, job_id="job-2"))
    house.join()
    assert house.raised == []
    assert house.broker.depth(queue_name("refine", "interactive")) == 1
    assert house.broker.depth(queue_name("upscale", "interactive")) == 1


def test_an_interactive_job_overtakes_the_bulk_ones_that_wait(house: House) -> None:
    with held() as (inside, go_on):
        house.worker(REFINE)
        bulk = [first_message(house.store, job_id=f"bulk-{n}", word=f"b{n}") for n in range(5)]
        for message in bulk:
            house.publish(message.model_copy(update={"priority": "bulk"}))
        assert inside.wait(PATIENCE_S)
        house.publish(first_message(house.store, job_id="urgent", word="now"))
        go_on.set()
        house.until(lambda event: event.job_id == "bulk-4" and event.kind == "finished")
    assert ran.index("now") <= 2, "at most the bulk job in hand and one that was taken already go before it"


def test_a_worker_says_what_it_has_in_hand_and_when_it_goes(house: House) -> None:
    with held() as (inside, go_on):
        worker = house.worker(REFINE)
        house.beat_that(lambda beat: beat.state == "idle")
        house.publish(first_message(house.store))
        assert inside.wait(PATIENCE_S)
        working = house.beat_that(lambda beat: beat.state == "working")
        assert [held.job_id for held in working.in_hand] == ["job-1"]
        worker.stop()
        house.beat_that(lambda beat: beat.state == "draining")
        go_on.set()
    gone = house.beat_that(lambda beat: beat.state == "gone")
    assert (gone.steps_done, gone.in_hand) == (1, ())


class Taken(Turnstile):
    """Another step is on the device until the test ends its turn; tells who comes and who waits."""

    def __init__(self) -> None:
        super().__init__(frozenset, look_every_s=0.001)
        self.came, self.asked = threading.Semaphore(0), threading.Semaphore(0)
        super().enter(frozenset(), lambda: None)

    def enter(self, models: AbstractSet[str], still_waits: Callable[[], None]) -> None:
        def asked() -> None:
            self.asked.release()
            still_waits()

        self.came.release()
        super().enter(models, asked)


def test_waiting_for_the_device_is_no_work(house: House) -> None:
    """Neither the step's deadline nor its seconds, and so its cost, count it."""
    turnstile = Taken()
    house.worker(REFINE_ON_DEVICE, WorkerLimits(step_deadline_s=0.2), turnstile=turnstile)
    house.publish(first_message(house.store))
    assert turnstile.asked.acquire(timeout=PATIENCE_S)
    until = monotonic() + 0.3
    while monotonic() < until:
        assert turnstile.asked.acquire(timeout=PATIENCE_S)
    turnstile.leave()
    finished = house.until(lambda event: event.kind in ("finished", "retrying"))
    assert finished.record is not None, finished.error
    assert finished.record.seconds < 0.2


def test_a_job_can_be_cancelled_while_its_step_waits_for_the_device(house: House) -> None:
    turnstile = Taken()
    house.worker(REFINE_ON_DEVICE, turnstile=turnstile)
    house.publish(first_message(house.store))
    assert turnstile.asked.acquire(timeout=PATIENCE_S)
    house.broker.publish(Outgoing(CONTROL, "", Control(kind="cancel", job_id="job-1").to_json(), "c", mandatory=False))
    assert house.until_ended().kind == "cancelled"
    turnstile.leave()
    house.publish(first_message(house.store, job_id="job-2", word="b"))
    house.until(lambda event: event.kind == "finished")
    assert ran == ["b"]


def test_a_step_that_waits_for_the_device_is_handed_back_at_shutdown(house: House) -> None:
    turnstile = Taken()
    worker = house.worker(REFINE_ON_DEVICE, turnstile=turnstile)
    house.publish(first_message(house.store))
    assert turnstile.asked.acquire(timeout=PATIENCE_S)
    worker.stop()
    house.join()
    assert house.broker.depth(queue_name("refine", "interactive")) == 1
    assert (ran, house.events, house.raised) == ([], [], [])


def test_a_step_goes_back_before_the_broker_takes_it_from_a_worker_that_waits(house: House) -> None:
    turnstile = Taken()
    limits = WorkerLimits(step_deadline_s=0.9, consumer_timeout_s=1.0)
    house.worker(REFINE_ON_DEVICE, limits, turnstile=turnstile)
    house.publish(first_message(house.store))
    for _ in range(2):
        assert turnstile.came.acquire(timeout=PATIENCE_S), "it comes again"
    turnstile.leave()
    assert house.until(lambda event: event.kind == "finished").attempt == 1


def test_engines_that_compute_elsewhere_do_not_wait_for_the_device(house: House) -> None:
    house.worker(REFINE, turnstile=Taken())
    house.publish(first_message(house.store))
    house.until(lambda event: event.kind == "finished")


def test_liveness_and_readiness_are_told_over_http(house: House) -> None:
    draining = threading.Event()
    settings = WorkerSettings(health_port=0)
    turnstile = Turnstile(frozenset)
    with health_told(
        settings,
        house.broker,
        house.store,
        draining.is_set,
        lambda: device_figures(turnstile),
        models=lambda: loaded(True),
    ) as server:
        assert server is not None
        address = f"http://127.0.0.1:{server.port}"
        with urlopen(f"{address}/live") as answer:  # noqa: S310 - our own server
            assert set(json.load(answer).values()) == {"ok"}
        with urlopen(f"{address}/ready") as answer:  # noqa: S310 - our own server
            assert answer.status == 200
        turnstile.enter(frozenset(), lambda: None)
        with urlopen(f"{address}/figures") as answer:  # noqa: S310 - our own server
            assert json.load(answer)["doctorgen_turns_total"] == 1
        draining.set()
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{address}/ready")  # noqa: S310 - our own server
        assert refused.value.code == 503
        assert json.load(refused.value)["draining"] == "the process is ending"
        refused.value.close()


def test_the_figures_tell_all_of_the_process_s_models() -> None:
    assert [field.name for field in dataclasses.fields(Figures)] == list(NAMES)
    with use_residency(Residency(Budget(10, 10))):
        found = device_figures(Turnstile(frozenset))
    assert {found[name] for name in NAMES.values()} == {0}


def test_a_store_that_does_not_answer_is_named_as_the_reason(house: House) -> None:
    class Away(MemoryStore):
        def get(self, key: str) -> bytes | None:
            raise Transient("connection refused")

    report = ready(house.broker, Away(), models=loaded(False), draining=False)
    assert report == {"broker": "ok", "storage": "connection refused", "models": "not loaded yet", "draining": "ok"}
