"""What any job store must do about jobs that wait for their turn."""

from concurrent.futures import ProcessPoolExecutor
from itertools import takewhile
from multiprocessing import get_context
from threading import Barrier

import pytest

from shared.contracts.base import now
from shared.contracts.errors import Transient
from shared.contracts.request import Lane
from shared.jobs.open import open_job_store
from shared.jobs.port import Job, JobStore
from tests.contract.jobs_fixtures import StoreSuite, at_once, ids, ignore
from tests.contract.jobs_samples import RESULT, TROUBLE, at, event, first_message, job

THREADS = 8
PROCESSES = 3
WIDE = 1000


class ReleaseContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_a_job_waits_until_it_is_released(self, store: JobStore) -> None:
        store.add(job())
        assert (store.waiting(), store.in_flight("interactive")) == (1, 0)
        before = now()
        released = store.release("interactive", WIDE, ignore)
        assert released is not None
        assert released.released_at is not None
        assert before <= released.released_at <= now()
        assert store.get("job-1") == released == job(released_at=released.released_at)
        assert (store.waiting(), store.in_flight("interactive")) == (0, 1)

    def test_publish_is_handed_the_job_with_its_first_message(self, store: JobStore) -> None:
        store.add(job())
        published: list[Job] = []
        assert store.release("interactive", WIDE, published.append) == published[0]
        assert published[0].first_message == first_message("job-1")

    def test_where_no_job_waits_nothing_is_published(self, store: JobStore) -> None:
        store.add(job())
        assert released_ids(store) == ["job-1"]
        published: list[Job] = []
        assert store.release("interactive", WIDE, published.append) is None
        assert published == []

    def test_a_publish_that_fails_leaves_the_job_waiting_and_its_turn_next(self, store: JobStore) -> None:
        for caller in ("clinic-a", "clinic-b"):
            store.add(job(caller, caller=caller))

        def publish(_: Job) -> None:
            raise Transient("the queue is full")

        for _ in range(3):
            with pytest.raises(Transient, match="the queue is full"):
                store.release("interactive", WIDE, publish)
        assert store.get("clinic-a") == job("clinic-a", caller="clinic-a")
        assert (store.waiting(), store.in_flight("interactive")) == (2, 0)
        assert released_ids(store) == ["clinic-a", "clinic-b"]

    def test_the_window_bounds_what_is_in_flight(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 4)
        assert released_ids(store, window=3) == ["clinic-a-0", "clinic-a-1", "clinic-a-2"]
        store.record(event("started", "encode", job_id="clinic-a-0"))
        assert store.release("interactive", 3, ignore) is None
        store.record(event("done", job_id="clinic-a-0", result=RESULT))
        assert (store.in_flight("interactive"), store.waiting()) == (2, 1)
        assert released_ids(store, window=3) == ["clinic-a-3"]

    @pytest.mark.parametrize("window", [0, -1])
    def test_a_window_without_room_releases_nothing(self, store: JobStore, window: int) -> None:
        store.add(job())
        assert store.release("interactive", window, ignore) is None

    def test_lanes_have_windows_of_their_own(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 2)
        add_many(store, "clinic-a", 2, lane="bulk")
        assert released_ids(store, window=1) == ["clinic-a-0"]
        assert released_ids(store, "bulk", window=1) == ["clinic-a-bulk-0"]
        assert (store.waiting("interactive"), store.waiting("bulk"), store.waiting()) == (1, 1, 2)
        assert (store.in_flight("interactive"), store.in_flight("bulk")) == (1, 1)

    def test_waiting_counts_a_callers_own(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 3)
        add_many(store, "clinic-a", 2, lane="bulk")
        add_many(store, "clinic-b", 1)
        assert store.waiting(caller="clinic-a") == 5
        assert store.waiting("bulk", caller="clinic-a") == 2
        assert store.waiting(caller="nobody") == 0

    def test_a_callers_oldest_job_goes_first(self, store: JobStore) -> None:
        for minute in (3, 1, 2):
            store.add(job(f"job-{minute}", created_at=at(minute)))
        assert released_ids(store) == ["job-1", "job-2", "job-3"]

    def test_callers_take_turns(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 4)
        add_many(store, "clinic-b", 2)
        add_many(store, "clinic-c", 1)
        assert [name[7:] for name in released_ids(store)] == ["a-0", "b-0", "c-0", "a-1", "b-1", "a-2", "a-3"]

    def test_a_new_caller_goes_before_those_that_had_a_turn(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 10)
        assert released_ids(store, window=3) == ["clinic-a-0", "clinic-a-1", "clinic-a-2"]
        add_many(store, "clinic-b", 2)
        assert released_ids(store, window=6) == ["clinic-b-0", "clinic-a-3", "clinic-b-1"]

    def test_a_turn_is_remembered_while_nothing_of_the_caller_waits(self, store: JobStore) -> None:
        """A caller that hands in one job after the other gets no more turns than one that hands in all at once."""
        add_many(store, "clinic-a", 3)
        order: list[str] = []
        for number in range(3):
            store.add(job(f"clinic-b-{number}", caller="clinic-b"))
            order += released_ids(store, window=2 * number + 2)
        assert [name[:8] for name in order] == ["clinic-a", "clinic-b"] * 3

    def test_callers_that_were_never_released_go_in_the_order_they_came(self, store: JobStore) -> None:
        for minute, caller in enumerate(("clinic-c", "clinic-a", "clinic-b")):
            store.add(job(caller, caller=caller, created_at=at(minute)))
        assert released_ids(store) == ["clinic-c", "clinic-a", "clinic-b"]

    def test_a_turn_in_one_lane_is_none_in_the_other(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 1, lane="bulk")
        released_ids(store, "bulk")
        for caller in ("clinic-a", "clinic-b"):
            add_many(store, caller, 1)
        assert released_ids(store) == ["clinic-a-0", "clinic-b-0"]

    def test_a_job_cancelled_while_it_waits_is_never_released(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 3)
        add_many(store, "clinic-b", 1)
        for cancelled in ("clinic-a-0", "clinic-b-0"):
            store.record(event("cancelled", job_id=cancelled))
        assert store.waiting() == 2
        assert released_ids(store) == ["clinic-a-1", "clinic-a-2"]

    def test_a_caller_whose_jobs_were_all_cancelled_gets_its_turn_with_the_next(self, store: JobStore) -> None:
        store.add(job("job-1"))
        store.record(event("cancelled", job_id="job-1"))
        assert released_ids(store) == []
        store.add(job("job-2"))
        assert released_ids(store) == ["job-2"]

    def test_refused_jobs_never_wait(self, store: JobStore) -> None:
        store.add(job("job-1", state="refused", first_message=None, steps=(), error=TROUBLE))
        store.add(job("job-2", state="refused", error=TROUBLE))
        assert (store.waiting(), released_ids(store)) == (0, [])

    def test_a_job_added_twice_waits_once(self, store: JobStore) -> None:
        for _ in range(2):
            store.add(job())
        assert (store.waiting(), released_ids(store), released_ids(store)) == (1, ["job-1"], [])

    def test_a_job_added_again_after_its_release_does_not_wait_again(self, store: JobStore) -> None:
        store.add(job())
        released_ids(store)
        assert store.add(job()).released_at is not None
        assert (store.waiting(), released_ids(store)) == (0, [])

    def test_a_job_that_was_opened_again_is_in_flight_until_it_ends_again(self, store: JobStore) -> None:
        store.add(job())
        released_ids(store)
        store.record(event("dead", "encode", error=TROUBLE))
        assert store.in_flight("interactive") == 0
        store.record(event("replayed", run=1))
        assert store.in_flight("interactive") == 1
        store.record(event("done", run=1, result=RESULT))
        assert (store.in_flight("interactive"), store.waiting()) == (0, 0)

    def test_released_jobs_are_those_of_both_lanes_that_have_not_ended_oldest_first(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 4)
        add_many(store, "clinic-a", 1, lane="bulk")
        released_ids(store, window=3)
        released_ids(store, "bulk")
        store.record(event("started", "encode", job_id="clinic-a-2"))
        store.record(event("done", job_id="clinic-a-1", result=RESULT))
        assert ids(store.released()) == ["clinic-a-0", "clinic-a-bulk-0", "clinic-a-2"]

    def test_releasers_in_threads_never_take_the_same_job_nor_overrun_the_window(self, store: JobStore) -> None:
        add_many(store, "clinic-a", 20)
        add_many(store, "clinic-b", 20)
        published: list[str] = []

        def release(_: int) -> int:
            return sum(1 for _ in takewhile(bool, iter(lambda: publish_one(store, 30, published), None)))

        told = at_once(release, THREADS)
        assert sum(told) == len(published) == len(set(published)) == 30
        assert [name[:8] for name in published] == ["clinic-a", "clinic-b"] * 15
        assert (store.in_flight("interactive"), store.waiting()) == (30, 10)

    def test_releasers_in_processes_never_take_the_same_job(self, url: str, store: JobStore) -> None:
        add_many(store, "clinic-a", 30)
        with get_context("spawn").Manager() as manager:
            start = manager.Barrier(PROCESSES)
            with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
                told = list(processes.map(_release_all, [url] * PROCESSES, [start] * PROCESSES))
        everything = [name for taken in told for name in taken]
        assert sorted(everything) == sorted(f"clinic-a-{number}" for number in range(30))

    def test_a_job_that_is_added_while_others_are_released_is_not_overlooked(self, store: JobStore) -> None:
        """The releaser takes a turn away only where no job came meanwhile."""
        adders = THREADS // 2
        published: list[str] = []

        def act(number: int) -> None:
            for count in range(20):
                if number < adders:
                    store.add(job(f"job-{number}-{count}", caller=f"clinic-{number % 2}"))
                else:
                    publish_one(store, WIDE, published)

        at_once(act, THREADS)
        while publish_one(store, WIDE, published):
            pass
        assert len(published) == len(set(published)) == adders * 20
        assert store.waiting() == 0

    def test_jobs_cancelled_while_they_are_released_end_once(self, store: JobStore) -> None:
        """Each is published or cancelled first, and none waits or flies afterwards."""
        add_many(store, "clinic-a", 20)

        def act(number: int) -> None:
            for count in range(20):
                if number % 2:
                    store.record(event("cancelled", job_id=f"clinic-a-{count}"))
                else:
                    store.release("interactive", WIDE, ignore)

        at_once(act, 4)
        assert (store.waiting(), store.in_flight("interactive")) == (0, 0)
        assert {standing.state for standing in store.recent()} == {"cancelled"}


def add_many(store: JobStore, caller: str, count: int, *, lane: Lane = "interactive") -> None:
    """Jobs of one caller, each a second younger than the one before."""
    name = caller if lane == "interactive" else f"{caller}-{lane}"
    for number in range(count):
        job_id = f"{name}-{number}"
        message = first_message(job_id).model_copy(update={"priority": lane, "caller": caller})
        store.add(job(job_id, caller=caller, first_message=message, created_at=at(number / 60)))


def released_ids(store: JobStore, lane: Lane = "interactive", *, window: int = WIDE) -> list[str]:
    """All that are released until none is, in order."""
    published: list[Job] = []
    while store.release(lane, window, published.append):
        pass
    return ids(tuple(published))


def publish_one(store: JobStore, window: int, published: list[str]) -> Job | None:
    """Release one job and note its id while the transaction is held."""
    return store.release("interactive", window, lambda released: published.append(released.job_id))


def _release_all(url: str, start: Barrier) -> list[str]:
    start.wait()
    store = open_job_store(url)
    taken = released_ids(store)
    store.close()
    return taken
