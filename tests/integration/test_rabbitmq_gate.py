"""A picture that fails goes back over RabbitMQ, between worker processes that are killed on the way."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.gateway.batches import BatchTeller
from services.gateway.bell import Bell
from services.gateway.journal import Journal
from services.gateway.rescue import publish_again
from services.gateway.tombs import Tombs
from shared.broker.port import Broker, Subscription
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.topology import EVENTS, dead_queue, topology, work_queues
from shared.contracts.base import now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.event import TERMINAL, Event
from shared.jobs.open import open_job_store
from shared.jobs.port import Job, JobStore, StepState
from shared.storage.folder import FolderStore
from tests.e2e.deployment import LIMIT_S, Process
from tests.synthetic import gated_message, likeness_of

SIGKILLED = -9
STAGES = ("refine", "upscale", "qa")
AGAIN = ("one", "two", "three")


@dataclass
class Bench:
    """A job on a private broker, its journal in this process, and a worker process a stage."""

    broker: Broker
    store: FolderStore
    jobs: JobStore
    ear: Subscription
    folder: Path
    environment: dict[str, str]
    processes: dict[str, Process] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)

    def start(self, stage: str, *phase: str) -> Process:
        """A worker, ready; it dies when it first reaches the phase, if one is named."""
        process = Process(("tests.integration.gate_worker", stage, *phase), self.environment, self.folder / "log")
        self.processes[stage] = process
        process.wait_until_ready()
        return process

    def file(self) -> Job:
        """Note a job whose picture can never pass, and publish its first step."""
        message = gated_message(self.store)
        steps = tuple(StepState(step=step.name, state="waiting") for step in message.steps)
        at = now()
        filed = Job(
            job_id=message.job_id,
            caller=message.caller,
            subject=message.subject,
            state="accepted",
            first_message=message,
            released_at=at,
            steps=steps,
            created_at=at,
            updated_at=at,
        )
        self.jobs.add(filed)
        publish_again(self.broker, [filed])
        return filed

    def hear(self, *, until_kind: frozenset[str]) -> None:
        """Collect what is told until one of these is."""
        while (delivery := self.ear.receive(LIMIT_S)) is not None:
            self.told.append(Event.from_json(delivery.body))
            if self.told[-1].kind in until_kind:
                return
        raise AssertionError(f"nothing more was told after {[event.kind for event in self.told]}")

    def ended(self) -> Job:
        """The job once the journal has its end and nothing of it is left on any queue, nor in a worker's hands."""
        self.hear(until_kind=TERMINAL)
        wait = threading.Event()
        for _ in range(int(LIMIT_S / 0.1)):
            job = self.jobs.get("job-1")
            queues = [queue for stage in STAGES for queue in work_queues(stage)]
            if job is not None and job.state in TERMINAL and not any(map(self.broker.depth, queues)):
                break
            wait.wait(0.1)
        assert {stage: process.terminate() for stage, process in self.processes.items()} == dict.fromkeys(STAGES, 0)
        while (delivery := self.ear.receive(0.5)) is not None:
            self.told.append(Event.from_json(delivery.body))
        job = self.jobs.get("job-1")
        assert job is not None
        return job

    def computed(self) -> Counter[tuple[str | None, int]]:
        """How often each step was computed in each attempt: who finds a manifest does not tell of a start."""
        return Counter((event.step, event.tried or 0) for event in self.told if event.kind == "started")


@pytest.fixture
def bench(rabbitmq_url: str, tmp_path: Path) -> Iterator[Bench]:
    environment = {
        **os.environ,
        "DOCTORGEN_BROKER_URL": rabbitmq_url,
        "DOCTORGEN_STORAGE__URL": str(tmp_path / "store"),
        "DOCTORGEN_DATA_DIR": str(tmp_path / "data"),
        "DOCTORGEN_BEAT_INTERVAL_S": "1",
    }
    with ExitStack() as opened:
        broker = opened.enter_context(closing(RabbitBroker(rabbitmq_url)))
        broker.declare(topology())
        store = FolderStore(tmp_path / "store")
        jobs = opened.enter_context(closing(open_job_store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")))
        journal = Journal(broker, jobs, BatchTeller(broker, jobs), Tombs(broker, store, jobs), Bell(), "journal")
        ear = opened.enter_context(closing(broker.listen(EVENTS, ("job.#",))))
        keeping = threading.Thread(target=journal.run)
        keeping.start()
        opened.callback(keeping.join, LIMIT_S)
        opened.callback(journal.stop)
        found = Bench(broker, store, jobs, ear, tmp_path, environment)
        yield found
        for process in found.processes.values():
            process.kill()


def assert_done_once_with_the_best(bench: Bench, job: Job) -> None:
    """Three attempts and one end; the most alike is the result, and nobody gave anything up."""
    assert job.state == "done"
    assert job.result is not None
    attempts = job.result.attempts or ()
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    images = [attempt.image for attempt in attempts if attempt.image]
    assert len({image.sha256 for image in images}) == 3
    pictures = [bench.store.get(image.key) or b"" for image in images]
    assert [attempt.identity_score for attempt in attempts] == [likeness_of(picture) for picture in pictures]
    assert bench.store.get(job.result.image.key) == max(pictures, key=likeness_of)
    kept = Counter(event.kind for event in bench.jobs.events("job-1"))
    assert (kept["done"], kept["regenerating"], kept["dead"]) == (1, 2, 0)
    assert {step.state for step in job.steps} == {"finished"}


@pytest.mark.parametrize("phase", ["published", "settling"], ids=["after-going-back", "before-ack"])
def test_no_attempt_is_lost_or_made_twice_though_its_judge_is_killed_on_the_way_back(bench: Bench, phase: str) -> None:
    """SIGKILL of the qa worker between the message that goes back and the acknowledgement: both copies go on."""
    doomed = bench.start("qa", phase)
    bench.start("refine")
    bench.start("upscale")
    bench.file()
    assert doomed.wait() == SIGKILLED
    bench.start("qa")
    job = bench.ended()
    assert bench.computed() == {("zero", 0): 1} | {(step, tried): 1 for step in AGAIN for tried in range(3)}
    assert_done_once_with_the_best(bench, job)


def test_an_error_in_a_further_attempt_leaves_the_best_though_the_worker_is_killed_while_it_tells(bench: Bench) -> None:
    """SIGKILL between the letter and the end of the job: the next worker fails again, and tells the same."""
    doomed = bench.start("refine", "published", "breaks")
    bench.start("upscale")
    bench.start("qa")
    bench.file()
    assert doomed.wait() == SIGKILLED
    bench.start("refine", "never", "breaks")
    job = bench.ended()
    assert job.state == "done"
    assert job.result is not None
    first, broken = job.result.attempts or ()
    assert (job.result.kept, job.result.image) == (1, first.image)
    assert bench.store.get(job.result.image.key)
    assert broken.error is not None
    assert (broken.error.step, broken.error.kind, broken.error.message) == ("one", "Permanent", "broken on purpose")
    assert Counter(event.kind for event in bench.jobs.events("job-1"))["done"] == 1
    assert {step.state for step in job.steps} == {"finished"}
    letter = bench.broker.subscribe(dead_queue("refine")).receive(LIMIT_S)
    assert letter is not None
    assert DeadLetter.from_json(letter.body).message is not None


def test_a_job_whose_messages_are_all_lost_makes_the_same_attempts_again_and_computes_nothing_twice(
    bench: Bench,
) -> None:
    """As after the loss of the broker's disk: its first message is published again while its second attempt runs."""
    doomed = bench.start("refine")
    bench.start("upscale")
    bench.start("qa")
    job = bench.file()
    bench.hear(until_kind=frozenset({"regenerating"}))
    doomed.kill()
    for queue in work_queues("refine"):
        bench.broker.sweep(queue, lambda _: True)
    standing = bench.jobs.get(job.job_id)
    assert standing is not None
    bench.start("refine")
    publish_again(bench.broker, [standing])
    ended = bench.ended()
    assert max(bench.computed().values()) <= 2, "the step that was in hand may be computed again"
    assert_done_once_with_the_best(bench, ended)
