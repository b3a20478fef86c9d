"""Whose turn it is, whatever callers hand in and call off, and however often jobs are released."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore
from tests.contract.jobs_fixtures import ignore
from tests.contract.jobs_samples import at, event, job

CALLERS = ("clinic-a", "clinic-b", "clinic-c")
WIDE = 1000
HAND_IN = st.tuples(st.just("hand in"), st.sampled_from(CALLERS))
CALL_OFF = st.tuples(st.just("call off"), st.sampled_from(CALLERS))
RELEASE = st.tuples(st.just("release"), st.just(""))
END = st.tuples(st.just("end"), st.just(""))
STORIES = st.lists(HAND_IN | CALL_OFF | RELEASE | END, max_size=30)


@pytest.fixture(scope="module")
def empty() -> Iterator[Path]:
    """A migrated database without rows, to be copied."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        open_job_store(f"sqlite:///{path}").close()
        yield path


@contextmanager
def copied(empty: Path) -> Iterator[JobStore]:
    """A store on a copy that lasts for one story."""
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(empty, Path(folder) / "jobs.db")
        with closing(open_job_store(f"sqlite:///{path}")) as store:
            yield store


class Told:
    """What a story told so far: who waits with which jobs, who was released when."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.waiting: dict[str, list[str]] = defaultdict(list)
        self.flying: list[str] = []
        self.last: dict[str, int] = defaultdict(int)
        self.releases: list[str] = []
        self.jobs = 0

    def hand_in(self, caller: str) -> None:
        """Each job is younger than all before it."""
        self.jobs += 1
        self.store.add(job(f"job-{self.jobs}", caller=caller, created_at=at(self.jobs)))
        self.waiting[caller].append(f"job-{self.jobs}")

    def call_off(self, caller: str) -> None:
        """The caller's oldest waiting job, if any."""
        if self.waiting[caller]:
            self.store.record(event("cancelled", job_id=self.waiting[caller].pop(0)))

    def end(self) -> None:
        """The job that flies longest."""
        if self.flying:
            self.store.record(event("expired", job_id=self.flying.pop(0)))

    def release(self, window: int) -> str | None:
        """Whose job was released, after checking that it was right."""
        released = self.store.release("interactive", window, ignore)
        waiting = {caller for caller in CALLERS if self.waiting[caller]}
        if len(self.flying) >= window or not waiting:
            assert released is None
            return None
        assert released is not None
        caller = released.caller
        assert released.job_id == self.waiting[caller].pop(0), "a caller's oldest job goes first"
        assert self.last[caller] == min(self.last[other] for other in waiting), "nobody who waits is further behind"
        self.releases.append(caller)
        self.last[caller] = len(self.releases)
        self.flying.append(released.job_id)
        return caller

    def play(self, story: list[tuple[str, str]], window: int = WIDE) -> None:
        """Do all that the story says."""
        for what, caller in story:
            match what:
                case "hand in":
                    self.hand_in(caller)
                case "call off":
                    self.call_off(caller)
                case "end":
                    self.end()
                case _:
                    self.release(window)
            assert self.store.waiting() == sum(map(len, self.waiting.values()))
            assert self.store.in_flight("interactive") == len(self.flying)


@settings(max_examples=30, deadline=None)
@given(story=STORIES, window=st.integers(1, 4))
def test_the_oldest_job_of_whoever_is_furthest_behind_goes_next_and_never_too_many(
    empty: Path, story: list[tuple[str, str]], window: int
) -> None:
    with copied(empty) as store:
        Told(store).play(story, window)


@settings(max_examples=20, deadline=None)
@given(story=STORIES, newcomer=st.sampled_from(CALLERS), crowd=st.integers(1, 8))
def test_a_single_job_waits_for_at_most_one_of_every_other_caller(
    empty: Path, story: list[tuple[str, str]], newcomer: str, crowd: int
) -> None:
    """However many the others have handed in, and whatever happened before."""
    with copied(empty) as store:
        told = Told(store)
        told.play(story)
        for caller in CALLERS:
            for _ in range(crowd):
                told.hand_in(caller)
        while told.waiting[newcomer]:
            told.call_off(newcomer)
        told.hand_in(newcomer)
        before = [told.release(WIDE) for _ in range(len(CALLERS))]
        ahead = before[: before.index(newcomer)]
        assert len(ahead) == len(set(ahead))


@settings(max_examples=20, deadline=None)
@given(story=STORIES)
def test_everything_that_was_handed_in_is_released_or_called_off_in_the_end(
    empty: Path, story: list[tuple[str, str]]
) -> None:
    with copied(empty) as store:
        told = Told(store)
        told.play(story)
        while told.release(WIDE):
            pass
        assert store.waiting() == 0
