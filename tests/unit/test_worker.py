"""A worker's life, on the embedded broker and a store in memory: what is run, committed, published, acknowledged."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from time import monotonic
from typing import Any

import pytest

from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import CONTROL, EVENTS, STEPS, dead_queue, queue_name, routing_key, topology
from shared.contracts.base import MESSAGE_LIMIT_BYTES, now
from shared.contracts.control import Control
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.event import TERMINAL, Event
from shared.contracts.step import StepMessage
from shared.storage.artifacts import store_artifact
from shared.storage.layout import manifest_key
from shared.storage.manifests import read_manifest, write_manifest
from shared.worker.dispatch import Origin, step_outgoing
from shared.worker.operation import Stage, Work
from shared.worker.retry import RetryPolicy, RetryRule
from shared.worker.worker import Worker
from tests import synthetic
from tests.fakes import MemoryStore
from tests.synthetic import QA, REFINE, SUBJECT, UPSCALE, AppendParams, first_message, ran

POLICY = RetryPolicy(rules={"Transient": RetryRule(attempts=3, base_delay_ms=1)}, ladder_ms=(5, 10))
PATIENCE_S = 10.0


@dataclass
class Pipeline:
    """Three synthetic stages, and an ear on their events."""

    broker: EmbeddedBroker
    store: MemoryStore
    ear: Subscription
    events: list[Event] = field(default_factory=list)
    phases: list[tuple[str, str]] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)

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
        subscription = self.broker.subscribe(dead_queue(stage))
        delivery = subscription.receive(PATIENCE_S)
        assert delivery is not None
        delivery.ack()
        subscription.close()
        return DeadLetter.from_json(delivery.body)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    ran.clear()
    synthetic.during[0] = lambda _: None
    with running(REFINE, UPSCALE, QA) as pipeline:
        yield pipeline
    synthetic.during[0] = lambda _: None


@contextmanager
def running(*stages: Stage, store: MemoryStore | None = None) -> Iterator[Pipeline]:
    broker = EmbeddedBroker()
    broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
    pipeline = Pipeline(broker, store or MemoryStore(), broker.listen(EVENTS, ("job.#",)))
    observe = lambda phase, message: pipeline.phases.append((message.step.name, phase))  # noqa: E731
    workers = [
        Worker(stage, broker, pipeline.store, Origin("w", POLICY), usd_per_hour=3600, observe=observe, rng=Random(1))
        for stage in stages
    ]
    pipeline.workers += workers
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    yield pipeline
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
    broker.close()


def test_a_job_goes_through_its_stages_and_ends_with_a_result(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, word="a"))
    done = pipeline.until_ended()
    assert done.kind == "done"
    assert done.result is not None
    assert pipeline.store.blobs[done.result.image.key] == b"photoa7!"
    assert done.result.summary.identity_score == 0.9
    assert [record.step for record in done.result.trail] == ["one", "two", "three"]
    assert [event.kind for event in pipeline.events if event.step == "one"] == ["started", "finished"]


def test_the_cost_is_worker_seconds_times_the_hourly_rate(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store))
    result = pipeline.until_ended().result
    assert result is not None
    assert result.cost_usd == pytest.approx(result.seconds, rel=1e-6)  # at 3600 USD an hour a second costs a dollar
    assert result.seconds > 0


def test_a_second_job_of_the_same_content_runs_no_step_and_costs_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store))
    first = pipeline.until_ended().result
    before = list(ran)
    pipeline.publish(first_message(pipeline.store, job_id="job-2"))
    second = pipeline.until_ended("job-2").result
    assert ran == before
    assert first is not None
    assert second is not None
    assert second.image == first.image
    assert all(record.reused for record in second.trail)
    assert second.cost_usd == 0
    assert len(pipeline.store.written) == len(set(pipeline.store.written)), "nothing was written twice"


def test_artifacts_then_manifest_then_publication_then_acknowledgement() -> None:
    """The order that makes a crash harmless at every point."""
    with running(REFINE, UPSCALE, QA) as pipeline:
        pipeline.publish(first_message(pipeline.store))
        pipeline.until_ended()
    phases = [phase for step, phase in pipeline.phases if step == "one"]
    assert phases == ["received", "started", "computed", "artifacts", "manifest", "published", "settling", "settled"]


def test_a_transient_error_is_retried_and_the_message_remembers_it(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, fail=2))
    done = pipeline.until_ended()
    assert done.kind == "done"
    retrying = [event for event in pipeline.events if event.kind == "retrying"]
    assert [event.attempt for event in retrying] == [1, 2]
    assert retrying[0].error is not None
    assert retrying[0].error.kind == "Transient"


def test_an_exhausted_step_goes_to_the_dead_letters_with_a_full_account(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, fail=99))
    assert pipeline.until_ended().kind == "dead"
    letter = pipeline.dead_letter("refine")
    assert (letter.job_id, letter.step, letter.attempts) == ("job-1", "one", 3)
    assert letter.error.kind == "Transient"
    assert letter.error.hint
    assert letter.input_digests["text"]
    assert letter.step_key is not None
    assert letter.message is not None
    assert len(letter.message.failures) == 2, "the first and the last failure"


def test_a_bug_is_not_retried_and_its_traceback_is_kept(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, broken=True))
    assert pipeline.until_ended().kind == "dead"
    letter = pipeline.dead_letter("refine")
    assert (letter.attempts, letter.error.type) == (1, "ZeroDivisionError")
    assert "broken on purpose" in letter.error.traceback


def test_a_dead_letter_can_be_published_again_as_it_is(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, fail=3))
    pipeline.until_ended()
    letter = pipeline.dead_letter("refine")
    assert letter.message is not None
    pipeline.publish(letter.message)
    assert pipeline.until_ended().kind == "done"


@pytest.mark.parametrize(
    "body", [b"", b"\xff\x00", b"{}", b'{"schema_version": 1}', b'{"schema_version": 7}', b"[" * 20_000]
)
def test_a_malformed_message_is_kept_with_its_reason_and_the_consumer_lives_on(pipeline: Pipeline, body: bytes) -> None:
    pipeline.broker.publish(Outgoing(STEPS, routing_key("refine", "bulk"), body, "bad"))
    letter = pipeline.dead_letter("refine")
    assert letter.error.kind == "InvalidInput"
    assert letter.body == body[:MESSAGE_LIMIT_BYTES].decode(errors="replace")
    assert "StepMessage" in letter.error.hint or letter.error.field
    pipeline.publish(first_message(pipeline.store))
    assert pipeline.until_ended().kind == "done"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"operation": "refine.unheard_of"}, "steps.one.operation"),
        ({"operation_version": 9}, "steps.one.operation_version"),
        ({"engine": "flux"}, "steps.one.engine"),
        ({"params": {"word": 5}}, "steps.one.params.word"),
        ({"params": {"wrod": "x"}}, "steps.one.params.wrod"),
        ({"inputs": {"text": "zero.text"}}, "artifacts"),
    ],
)
def test_a_step_that_cannot_be_done_here_is_refused_with_the_field_named(
    pipeline: Pipeline, changes: dict[str, Any], field: str
) -> None:
    message = first_message(pipeline.store)
    steps = (message.steps[0].model_copy(update=changes), *message.steps[1:])
    pipeline.publish(message.model_copy(update={"steps": steps}))
    refused = pipeline.until_ended()
    assert refused.kind == "refused"
    assert refused.error is not None
    assert refused.error.field == field
    assert pipeline.dead_letter("refine").job_id == "job-1"


def test_a_corrupt_input_is_never_computed_on(pipeline: Pipeline) -> None:
    message = first_message(pipeline.store)
    (photo,) = message.artifacts["request.photos"]
    pipeline.store.blobs[photo.key] = b"tampered"
    pipeline.publish(message)
    dead = pipeline.until_ended()
    assert dead.kind == "dead"
    assert dead.error is not None
    assert dead.error.kind == "IntegrityError"
    assert ran == []


def test_a_manifest_cut_short_does_not_count_and_is_mended(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store))
    pipeline.until_ended()
    cut = next(key for key in pipeline.store.written if "/manifests/" in key)
    whole = pipeline.store.blobs[cut]
    pipeline.store.blobs[cut] = whole[: len(whole) // 2]
    pipeline.publish(first_message(pipeline.store, job_id="job-2"))
    result = pipeline.until_ended("job-2").result
    assert result is not None
    assert [record.reused for record in result.trail] == [False, True, True]
    assert pipeline.store.blobs[cut].startswith(b'{"schema_version"')
    assert manifest_key(SUBJECT, result.trail[0].key) == cut


def test_a_job_past_its_deadline_is_not_worked_on(pipeline: Pipeline) -> None:
    message = first_message(pipeline.store).model_copy(update={"deadline": now() - timedelta(seconds=1)})
    pipeline.publish(message)
    assert pipeline.until_ended().kind == "expired"
    assert ran == []


def test_a_cancelled_job_stops_in_the_middle_of_its_step(pipeline: Pipeline) -> None:
    def cancel_and_work_on(work: Work[AppendParams]) -> None:
        body = Control(kind="cancel", job_id="job-1").to_json()
        pipeline.broker.publish(Outgoing(CONTROL, "", body, "c", mandatory=False))
        tick = threading.Event()
        until = monotonic() + PATIENCE_S
        while monotonic() < until:
            work.progress(0.5)
            tick.wait(0.01)

    synthetic.during[0] = cancel_and_work_on
    pipeline.publish(first_message(pipeline.store, word="a"))
    assert pipeline.until_ended().kind == "cancelled"


def test_messages_stay_under_16_kib_even_after_failures_with_long_tracebacks(pipeline: Pipeline) -> None:
    pipeline.publish(first_message(pipeline.store, fail=2, word="x" * 2_000))
    assert pipeline.until_ended().kind == "done"
    assert max(len(event.to_json()) for event in pipeline.events) <= MESSAGE_LIMIT_BYTES


def test_two_workers_with_the_same_step_at_once_end_in_one_result() -> None:
    """Both compute, both commit the same bytes; the second write is the first one's equal."""
    ran.clear()
    with running(REFINE, REFINE, UPSCALE, QA) as pipeline:
        meeting = threading.Barrier(2)
        synthetic.during[0] = lambda _: met.append(meeting.wait(PATIENCE_S)) if len(met) < 2 else None
        met: list[int] = []
        pipeline.publish(first_message(pipeline.store, word="a"))
        pipeline.publish(first_message(pipeline.store, word="a"))
        done = pipeline.until_ended()
        again = pipeline.until_ended()
    synthetic.during[0] = lambda _: None
    assert done.event_id == again.event_id, "told twice, it is one happening"
    assert ran.count("a") == 2
    assert ran.count("!") == 1


def test_two_workers_at_once_that_disagree_go_on_with_what_was_committed_first() -> None:
    """As two kinds of GPU may. Else the job would go on twice, and be judged twice."""
    ran.clear()
    with running(REFINE, UPSCALE, QA) as alone:
        alone.publish(first_message(alone.store))
        result = alone.until_ended().result
    assert result is not None
    manifest = read_manifest(alone.store, SUBJECT, result.trail[0].key)
    assert manifest is not None
    with running(REFINE, UPSCALE, QA) as pipeline:
        others = store_artifact(pipeline.store, SUBJECT, "intermediate", b"others", "application/octet-stream")
        faster = manifest.model_copy(update={"outputs": {"text": (others,)}})
        synthetic.during[0] = lambda work: write_manifest(pipeline.store, faster) if work.params.word == "." else None
        pipeline.publish(first_message(pipeline.store))
        result = pipeline.until_ended().result
    synthetic.during[0] = lambda _: None
    assert result is not None
    assert pipeline.store.blobs[result.image.key] == b"others!"


def test_stop_finishes_the_current_step_and_leaves_the_rest_on_the_queue() -> None:
    ran.clear()
    inside, go_on = threading.Event(), threading.Event()

    def hold(_: Work[AppendParams]) -> None:
        inside.set()
        go_on.wait(PATIENCE_S)

    broker = EmbeddedBroker()
    broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
    store = MemoryStore()
    worker = Worker(REFINE, broker, store, Origin("w", POLICY), usd_per_hour=1)
    thread = threading.Thread(target=worker.run)
    synthetic.during[0] = hold
    thread.start()
    for job in ("job-1", "job-2"):
        broker.publish(step_outgoing(first_message(store, job_id=job, word=job)))
    assert inside.wait(PATIENCE_S)
    worker.stop()
    go_on.set()
    thread.join(PATIENCE_S)
    synthetic.during[0] = lambda _: None
    assert ran == ["job-1"]
    assert broker.depth(queue_name("upscale", "interactive")) == 1
    assert broker.depth(queue_name("refine", "interactive")) == 1
    broker.close()


def test_a_delivery_handed_back_is_no_attempt_and_publishes_nothing() -> None:
    ran.clear()
    inside, go_on = threading.Event(), threading.Event()

    def hold(_: Work[AppendParams]) -> None:
        inside.set()
        go_on.wait(PATIENCE_S)

    broker = EmbeddedBroker()
    broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
    store = MemoryStore()
    worker = Worker(REFINE, broker, store, Origin("w", POLICY), usd_per_hour=1)
    thread = threading.Thread(target=worker.run)
    synthetic.during[0] = hold
    thread.start()
    broker.publish(step_outgoing(first_message(store)))
    assert inside.wait(PATIENCE_S)
    worker.stop()
    worker.hand_back()
    go_on.set()
    thread.join(PATIENCE_S)
    synthetic.during[0] = lambda _: None
    assert broker.depth(queue_name("upscale", "interactive")) == 0
    subscription = broker.subscribe(queue_name("refine", "interactive"))
    delivery = subscription.receive(PATIENCE_S)
    assert delivery is not None
    assert StepMessage.from_json(delivery.body).attempts == 0
    broker.close()
