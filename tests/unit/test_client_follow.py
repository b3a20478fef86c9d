"""Following jobs to their ends: by events and by the journal, over several runs, and where nothing is kept of a job."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from doctor_image_gen.client import PATTERNS, Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.errors import Transient
from shared.contracts.event import Event
from shared.jobs.port import Job
from shared.vision.photos import PhotoLimits
from shared.worker.events import outgoing_event
from tests.contract.jobs_samples import RESULT, TROUBLE, event, job
from tests.unit.job_files import put_jobs

PATIENCE_S = 10.0


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
        yield connections


class Following:
    """Follows jobs in a thread of its own; `tell` returns once the follower has heard."""

    def __init__(self, connections: Connections, runs: dict[str, int]) -> None:
        self._broker = connections.broker
        self._heard: dict[str, threading.Event] = {}
        self._pool = ThreadPoolExecutor(1)
        client = Client(connections, PhotoLimits())
        self._jobs = self._pool.submit(client.follow_runs, runs, self._hear, PATIENCE_S)

    def tell(self, told: Event) -> None:
        heard = self._heard.setdefault(told.event_id, threading.Event())
        while not heard.wait(0.02):
            self._broker.publish(outgoing_event(told))

    @property
    def is_over(self) -> bool:
        return self._jobs.done()

    def ends(self) -> tuple[Job, ...]:
        try:
            return self._jobs.result(PATIENCE_S)
        finally:
            self._pool.shutdown()

    def _hear(self, told: Event) -> None:
        self._heard.setdefault(told.event_id, threading.Event()).set()


def test_the_end_of_an_earlier_run_is_not_the_end(connections: Connections) -> None:
    connections.jobs.add(job("job-1"))
    first, second = event("dead", "base", error=TROUBLE), event("done", run=1, result=RESULT)
    connections.jobs.record(first)
    following = Following(connections, {"job-1": 1})
    following.tell(first)
    assert not following.is_over
    connections.jobs.record(second)
    connections.broker.publish(outgoing_event(second))
    (ended,) = following.ends()
    assert (ended.state, ended.run) == ("done", 1)


def test_an_end_that_nobody_heard_of_is_found_in_the_journal(connections: Connections) -> None:
    connections.jobs.add(job("job-1"))
    following = Following(connections, {"job-1": 0})
    following.tell(event("started", "base"))
    connections.jobs.record(event("dead", "base", error=TROUBLE))
    (ended,) = following.ends()
    assert (ended.state, ended.error) == ("dead", TROUBLE)


def test_of_a_job_that_nothing_is_kept_of_the_event_tells_the_end(connections: Connections) -> None:
    """Intake turned it away, or its subject was erased."""
    following = Following(connections, {"job-1": 0})
    told = event("refused", error=TROUBLE)
    connections.broker.publish(outgoing_event(told))
    following.tell(told)
    (ended,) = following.ends()
    assert (ended.job_id, ended.state, ended.error) == ("job-1", "refused", TROUBLE)
    assert connections.jobs.get("job-1") is None


def test_many_jobs_are_followed_by_one_ear(connections: Connections) -> None:
    names = [f"job-{number}" for number in range(PATTERNS + 1)]
    for name in names:
        connections.jobs.add(job(name))
    following = Following(connections, dict.fromkeys(names, 0))
    following.tell(event("started", "base", job_id=names[0]))
    for name in names:
        end = event("done", job_id=name, result=RESULT)
        connections.jobs.record(end)
        connections.broker.publish(outgoing_event(end))
    assert [(ended.job_id, ended.state) for ended in following.ends()] == [(name, "done") for name in names]


def test_who_waits_too_long_is_told_how_many_are_open(connections: Connections) -> None:
    connections.jobs.add(job("job-1"))
    connections.jobs.add(job("job-2", state="dead"))
    client = Client(connections, PhotoLimits())
    with pytest.raises(Transient, match=r"1 of 2 jobs did not end within 0\.01 seconds"):
        client.follow_runs({"job-1": 0, "job-2": 0}, lambda _: None, timeout_s=0.01)
