"""The releaser: accepted jobs go out one window at a time, callers in turn, interactive ones first; none is lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.bell import Bell
from services.gateway.release import Releaser, live_window, window_of
from services.gateway.room import Pace
from shared.broker.port import Outgoing
from shared.broker.topology import work_queues
from shared.contracts.base import now
from shared.contracts.beat import Beat, WorkerState
from shared.contracts.errors import Transient
from shared.contracts.event import TERMINAL
from shared.contracts.request import Lane
from shared.contracts.step import StepMessage
from shared.jobs.port import JobStore
from tests.contract.jobs_samples import DAWN, at, event, first_message, job, request
from tests.unit.gateway_door import PATIENCE_S, opened
from tests.unit.job_files import open_jobs

NOW = now()
FALLBACK_S = 600.0
"""So long that only the bell can explain what happens in a test."""


def beat(worker: str, state: WorkerState = "idle", silent_for_s: float = 0.0) -> Beat:
    told_at = NOW - timedelta(seconds=silent_for_s)
    return Beat(worker=worker, stage="qa", at=told_at, started_at=told_at, state=state)


@pytest.mark.parametrize(
    ("beats", "window"),
    [
        ([], 8),
        ([beat(f"w{number}") for number in range(6)], 8),
        ([beat(f"w{number}") for number in range(7)], 9),
        ([beat(f"w{number}", "working") for number in range(100)], 102),
        ([beat(f"w{number}", "draining") for number in range(100)], 8),
        ([beat(f"w{number}", silent_for_s=31) for number in range(100)], 8),
    ],
    ids=["none", "six", "seven", "hundred", "draining", "silent"],
)
def test_the_window_is_the_live_workers_and_two_but_at_least_eight(beats: list[Beat], window: int) -> None:
    assert window_of(beats, NOW, silent_after_s=30) == window


class Outlet:
    """A broker of which a test says when it takes messages."""

    def __init__(self) -> None:
        self.published: list[StepMessage] = []
        self.failures = 0
        self.changed = threading.Condition()

    def publish(self, message: Outgoing) -> None:
        with self.changed:
            if self.failures:
                self.failures -= 1
                raise Transient("the broker is away")
            self.published.append(StepMessage.from_json(message.body))
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[str]:
        """The ids of the jobs released, once there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.published) >= count, PATIENCE_S), self.published
            return [message.job_id for message in self.published]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as store:
        yield store


def add(jobs: JobStore, job_id: str, caller: str = "anonymous", lane: Lane = "interactive", minute: float = 0) -> None:
    message = first_message(job_id).model_copy(update={"caller": caller, "priority": lane})
    wish = request(caller=caller, priority=lane)
    jobs.add(job(job_id, caller=caller, request=wish, first_message=message, created_at=at(minute)))


class Releasers:
    """Starts releasers, and stops them so that all they have begun is done."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._running: list[tuple[Releaser, threading.Thread]] = []

    def __call__(self, window: int = 8, outlet: Outlet | None = None, pace: Pace | None = None) -> tuple[Outlet, Bell]:
        outlet, bell = outlet or Outlet(), Bell()
        releaser = Releaser(outlet, self._jobs, lambda: window, bell, pace or Pace(), FALLBACK_S)  # type: ignore[arg-type] # all that it asks of a broker
        thread = threading.Thread(target=releaser.run)
        thread.start()
        self._running.append((releaser, thread))
        return outlet, bell

    def stop(self) -> None:
        while self._running:
            releaser, thread = self._running.pop()
            releaser.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def start(jobs: JobStore) -> Iterator[Releasers]:
    releasers = Releasers(jobs)
    yield releasers
    releasers.stop()


def test_no_more_than_a_window_of_jobs_is_in_flight(jobs: JobStore, start: Releasers) -> None:
    for number in range(5):
        add(jobs, f"job-{number}", minute=number)
    outlet, bell = start(window=2)
    assert outlet.wait_for(2) == ["job-0", "job-1"]
    jobs.record(event("done", job_id="job-0"))
    bell.ring()
    assert outlet.wait_for(3) == ["job-0", "job-1", "job-2"]
    start.stop()
    assert jobs.in_flight("interactive") == 2
    assert jobs.waiting() == 2


def test_a_backlog_of_one_caller_does_not_delay_another(jobs: JobStore, start: Releasers) -> None:
    for number in range(6):
        add(jobs, f"bulk-{number}", "acme", minute=number)
    add(jobs, "single", "alice", minute=99)
    outlet, _ = start(window=3)
    assert outlet.wait_for(3) == ["bulk-0", "single", "bulk-1"]


def test_interactive_jobs_go_before_bulk_ones_and_do_not_use_up_their_window(jobs: JobStore, start: Releasers) -> None:
    for number in range(3):
        add(jobs, f"bulk-{number}", lane="bulk", minute=number)
        add(jobs, f"quick-{number}", lane="interactive", minute=10 + number)
    outlet, _ = start(window=2)
    assert outlet.wait_for(4) == ["quick-0", "quick-1", "bulk-0", "bulk-1"]


def test_a_bell_releases_at_once(jobs: JobStore, start: Releasers) -> None:
    outlet, bell = start()
    add(jobs, "job-1")
    bell.ring()
    assert outlet.wait_for(1) == ["job-1"]


def test_a_broker_that_is_away_costs_time_and_no_job(jobs: JobStore, start: Releasers) -> None:
    """What could not be published is not released, and tried again without anybody ringing."""
    outlet = Outlet()
    outlet.failures = 3
    for number in range(3):
        add(jobs, f"job-{number}", minute=number)
    start(outlet=outlet)
    assert outlet.wait_for(3) == ["job-0", "job-1", "job-2"]


def test_releasers_side_by_side_release_each_job_once(jobs: JobStore, start: Releasers) -> None:
    for number in range(40):
        add(jobs, f"job-{number}", minute=number)
    outlet = Outlet()
    for _ in range(3):
        start(window=100, outlet=outlet)
    assert sorted(outlet.wait_for(40)) == sorted(f"job-{number}" for number in range(40))
    start.stop()
    assert jobs.waiting() == 0


def test_releases_are_told_to_the_pace(jobs: JobStore, start: Releasers) -> None:
    """From it callers learn how long to wait."""

    class Heard(Pace):
        def __init__(self) -> None:
            super().__init__()
            self.callers: list[str] = []
            self.complete = threading.Event()

        def released(self, caller: str) -> None:
            self.callers.append(caller)
            if len(self.callers) == 2:
                self.complete.set()

    add(jobs, "job-1", "acme")
    add(jobs, "job-2", "other", minute=1)
    pace = Heard()
    start(pace=pace)
    assert pace.complete.wait(PATIENCE_S)
    assert pace.callers == ["acme", "other"]


def test_a_window_that_is_set_goes_before_the_workers_beats(jobs: JobStore) -> None:
    for number in range(20):
        jobs.beat(beat(f"w{number}"), DAWN)
    assert live_window(jobs, 3600.0, None)() == 22
    assert live_window(jobs, 3600.0, 3)() == 3


def test_ten_callers_at_once_are_all_served_in_turn(tmp_path: Path) -> None:
    """Through intake and all: every job is accepted once, released once, and reaches its stage once."""
    with opened(tmp_path, window=1000) as door:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: door.publish(job_id=f"job-{n}", caller=f"caller-{n % 10}"), range(20)))
        steps = [door.step().job_id for _ in range(20)]
        assert sorted(steps) == sorted(f"job-{number}" for number in range(20))
        assert [door.broker.depth(queue) for queue in work_queues("identity")] == [0, 0]


def test_the_journal_rings_when_a_job_ends(tmp_path: Path) -> None:
    """A window of one job: the second is released by the event that ends the first."""
    with opened(tmp_path, window=1) as door:
        for number in (1, 2):
            door.publish(job_id=f"job-{number}")
        assert door.step().job_id == "job-1"
        done = event("expired", job_id="job-1")
        assert done.kind in TERMINAL
        door.tell(done)
        assert door.step().job_id == "job-2"
