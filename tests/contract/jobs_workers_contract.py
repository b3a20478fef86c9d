"""What any job store must do with workers' signs of life."""

from typing import Any

from shared.contracts.beat import Beat, InHand
from shared.jobs.port import JobStore
from tests.contract.jobs_fixtures import StoreSuite, at_once
from tests.contract.jobs_samples import DAWN, at


def beat(worker: str = "qa@node-1", minute: float = 1, **fields: Any) -> Beat:
    """A sign of life so many minutes after dawn."""
    return Beat(**{"worker": worker, "stage": "qa", "at": at(minute), "started_at": DAWN, "state": "working", **fields})


class WorkersContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_a_beat_comes_back_as_it_was_told(self, store: JobStore) -> None:
        told = beat(
            "worker\x00 'Ärztin'",
            in_hand=(InHand(job_id="job-1", step="score", since=at(0.5)),),
            steps_done=7,
            rss_bytes=2**40,
        )
        store.beat(told, DAWN)
        assert store.workers() == (told,)

    def test_workers_come_by_name(self, store: JobStore) -> None:
        for name in ("b", "c", "a"):
            store.beat(beat(name), DAWN)
        assert [told.worker for told in store.workers()] == ["a", "b", "c"]

    def test_only_the_newest_beat_stands_whatever_the_order(self, store: JobStore) -> None:
        for minute in (2, 3, 1):
            store.beat(beat(minute=minute), DAWN)
        assert store.workers() == (beat(minute=3),)

    def test_a_beat_told_twice_is_one(self, store: JobStore) -> None:
        for _ in range(2):
            store.beat(beat(), DAWN)
        assert store.workers() == (beat(),)

    def test_a_worker_that_said_it_is_gone_is_not_told_of(self, store: JobStore) -> None:
        """Nor does an older beat that comes late bring it back; a newer one does."""
        store.beat(beat(minute=2, state="gone"), DAWN)
        store.beat(beat(minute=1), DAWN)
        assert store.workers() == ()
        store.beat(beat(minute=3, state="idle"), DAWN)
        assert store.workers() == (beat(minute=3, state="idle"),)

    def test_silent_workers_are_forgotten(self, store: JobStore) -> None:
        """Each by when it was heard, whatever it says the time is."""
        store.beat(beat("silent", minute=9), at(1))
        store.beat(beat("gone", minute=9, state="gone"), at(2))
        store.beat(beat("alive", minute=-9), at(3))
        assert store.forget_workers(at(3)) == 2
        assert store.workers() == (beat("alive", minute=-9),)
        assert store.forget_workers(at(3)) == 0

    def test_threads_beating_for_one_worker_leave_the_newest(self, store: JobStore) -> None:
        at_once(lambda number: store.beat(beat(minute=number), DAWN), 8)
        assert store.workers() == (beat(minute=7),)
