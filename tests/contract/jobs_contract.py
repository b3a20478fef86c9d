"""What any job store must do. Each database's test module runs this suite against itself."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta, timezone
from multiprocessing import get_context
from threading import Barrier

import pytest

from shared.contracts.errors import InvalidInput
from shared.contracts.request import ImageRef
from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore
from tests.contract.jobs_fixtures import StoreSuite, ids
from tests.contract.jobs_samples import (
    RESULT,
    STEPS,
    TROUBLE,
    at,
    event,
    first_message,
    history,
    job,
    record_of,
    request,
)

THREADS = 8
PROCESSES = 3


class JobStoreContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_a_job_comes_back_as_it_was_added(self, store: JobStore) -> None:
        """Every document, and an instant of another time zone with its microseconds."""
        delhi = at(0).astimezone(timezone(timedelta(hours=5.5)))
        asked = request(images={"pose": ImageRef(key="inbox/pose.png", sha256="a" * 64, shared=True)})
        added = job(batch_id="batch-1", request=asked, error=TROUBLE, result=RESULT, created_at=delhi)
        assert store.add(added) == added
        assert store.get("job-1") == added

    def test_a_refused_request_needs_no_subject_no_request_and_no_message(self, store: JobStore) -> None:
        refused = job(
            subject=None, request=None, brief=None, first_message=None, steps=(), state="refused", error=TROUBLE
        )
        store.add(refused)
        assert store.get("job-1") == refused

    def test_an_unknown_job_is_none(self, store: JobStore) -> None:
        assert store.get("job-1") is None
        assert store.events("job-1") == ()

    def test_any_characters_survive(self, store: JobStore) -> None:
        """Including NUL, which PostgreSQL's text does not take, in a document and in the idempotency key."""
        words = "Ärztin 👩🏽‍⚕️ 医師 \x00\u2028\"'\\ " * 40
        asked = request(custom_prompt=words.strip(), idempotency_key="schlüssel\x00'\"🔑")
        store.add(job(request=asked))
        found = store.get("job-1")
        assert found is not None
        assert found.request == asked
        assert store.add(job("job-2", request=asked)).job_id == "job-1"

    def test_a_message_at_the_size_limit_survives(self, store: JobStore) -> None:
        big = first_message().model_copy(update={"trace": {"baggage": "語" * 5000}})
        store.add(job(first_message=big))
        found = store.get("job-1")
        assert found is not None
        assert found.first_message == big

    def test_adding_a_job_twice_keeps_the_first(self, store: JobStore) -> None:
        first = store.add(job(state="running"))
        assert store.add(job(request=request(scenario="speaker"))) == first
        assert store.get("job-1") == first

    def test_one_callers_idempotency_key_names_one_job(self, store: JobStore) -> None:
        first = store.add(job("job-1", request=request(idempotency_key="k")))
        assert store.add(job("job-2", request=request(idempotency_key="k"))) == first
        assert store.get("job-2") is None

    def test_two_callers_may_use_the_same_idempotency_key(self, store: JobStore) -> None:
        store.add(job("job-1", caller="clinic-a", request=request(idempotency_key="k")))
        other = job("job-2", caller="clinic-b", request=request(idempotency_key="k"))
        assert store.add(other) == other

    def test_jobs_without_an_idempotency_key_stand_side_by_side(self, store: JobStore) -> None:
        store.add(job("job-1"))
        assert store.add(job("job-2")).job_id == "job-2"

    def test_where_id_and_key_name_two_jobs_the_id_decides(self, store: JobStore) -> None:
        store.add(job("job-1", request=request(idempotency_key="k")))
        store.add(job("job-2"))
        assert store.add(job("job-2", request=request(idempotency_key="k"))).job_id == "job-2"

    def test_events_carry_a_job_to_its_end(self, store: JobStore) -> None:
        store.add(job())
        for told in history():
            store.record(told)
        done = store.get("job-1")
        assert done is not None
        assert (done.state, done.result, done.updated_at) == ("done", RESULT, at(9))
        assert [step.state for step in done.steps] == ["finished"] * len(STEPS)

    def test_record_returns_the_job_that_get_finds(self, store: JobStore) -> None:
        store.add(job())
        for told in (*history()[:3], event("progress", "base", fraction=0.5), event("retrying", "base", error=TROUBLE)):
            assert store.record(told) == store.get("job-1")

    def test_progress_counts_and_is_not_kept(self, store: JobStore) -> None:
        store.add(job())
        after = store.record(event("progress", "encode", fraction=0.25))
        assert after is not None
        assert after.steps[0].fraction == 0.25
        assert store.events("job-1") == ()

    def test_an_event_told_twice_counts_and_is_kept_once(self, store: JobStore) -> None:
        """The same id with other words is still the same event."""
        store.add(job())
        first = store.record(event("started", "encode"))
        again = event("started", "encode", attempt=2).model_copy(
            update={"event_id": event("started", "encode").event_id}
        )
        assert store.record(again) == first
        assert store.events("job-1") == (event("started", "encode"),)

    def test_a_terminal_state_is_left_by_no_later_event(self, store: JobStore) -> None:
        store.add(job())
        store.record(event("dead", "encode", error=TROUBLE))
        for late in history():
            store.record(late)
        dead = store.get("job-1")
        assert dead is not None
        assert (dead.state, dead.error, dead.result) == ("dead", TROUBLE, None)

    def test_an_event_of_an_unknown_job_keeps_nothing(self, store: JobStore) -> None:
        assert store.record(event("started", "encode")) is None
        store.add(job())
        assert store.events("job-1") == ()
        assert store.get("job-1") == job()

    def test_events_come_back_whole_in_the_order_they_were_recorded(self, store: JobStore) -> None:
        store.add(job())
        store.add(job("job-2"))
        told = tuple(reversed(history()))
        for mine, other in zip(told, history("job-2"), strict=True):
            store.record(mine)
            store.record(other)
        assert store.events("job-1") == told
        assert store.events("job-2") == history("job-2")

    def test_recent_gives_the_newest_first(self, store: JobStore) -> None:
        for minute in (2, 5, 3, 1, 4):
            store.add(job(f"job-{minute}", created_at=at(minute)))
        assert ids(store.recent()) == ["job-5", "job-4", "job-3", "job-2", "job-1"]
        assert ids(store.recent(2)) == ["job-5", "job-4"]

    def test_recent_selects_by_subject_and_by_batch(self, store: JobStore) -> None:
        store.add(job("job-1", batch_id="batch-1", created_at=at(1)))
        store.add(job("job-2", batch_id="batch-1", created_at=at(2), subject="doctor-2"))
        store.add(job("job-3", batch_id="batch-2", created_at=at(3)))
        store.add(job("job-4", created_at=at(4)))
        assert ids(store.recent(subject="doctor-1")) == ["job-4", "job-3", "job-1"]
        assert ids(store.recent(batch_id="batch-1")) == ["job-2", "job-1"]
        assert ids(store.recent(subject="doctor-1", batch_id="batch-1")) == ["job-1"]
        assert store.recent(subject="nobody") == ()

    @pytest.mark.parametrize("limit", [0, -1])
    def test_recent_refuses_a_limit_below_one(self, store: JobStore, limit: int) -> None:
        with pytest.raises(InvalidInput, match=f"limit: {limit} jobs were asked for"):
            store.recent(limit)

    def test_unfinished_jobs_are_those_without_an_end_oldest_first(self, store: JobStore) -> None:
        for minute in (3, 1, 2):
            store.add(job(f"job-{minute}", created_at=at(minute)))
        store.add(job("refused", state="refused", created_at=at(0)))
        store.record(event("started", "encode", job_id="job-3"))
        store.record(event("cancelled", job_id="job-1"))
        assert ids(store.unfinished()) == ["job-2", "job-3"]

    def test_everything_survives_a_reopening(self, url: str) -> None:
        store = open_job_store(url)
        store.add(job())
        for told in history():
            store.record(told)
        before = store.get("job-1")
        store.close()
        reopened = open_job_store(url)
        assert (reopened.get("job-1"), reopened.events("job-1")) == (before, history())
        reopened.close()

    def test_threads_adding_one_job_make_one_row(self, store: JobStore) -> None:
        """They race over the id and over the idempotency key at once, and all are told of the same winner."""
        start = Barrier(THREADS)

        def add(number: int) -> str:
            start.wait()
            return store.add(job(f"job-{number % 2}", request=request(idempotency_key="k"))).job_id

        with ThreadPoolExecutor(THREADS) as threads:
            told = set(threads.map(add, range(THREADS)))
        assert told == set(ids(store.recent()))
        assert len(told) == 1

    def test_threads_recording_different_events_of_one_job_lose_none(self, store: JobStore) -> None:
        store.add(job())
        started = [event("started", step, attempt=attempt) for step in STEPS for attempt in range(1, 11)]
        with ThreadPoolExecutor(THREADS) as threads:
            assert None not in list(threads.map(store.record, started))
        after = store.get("job-1")
        assert after is not None
        assert [step.attempts for step in after.steps] == [10] * len(STEPS)
        assert {kept.event_id for kept in store.events("job-1")} == {told.event_id for told in started}

    def test_threads_ending_one_job_agree_on_one_end(self, store: JobStore) -> None:
        store.add(job())
        ends = [event("done", result=RESULT), event("dead", error=TROUBLE), event("cancelled"), event("expired")]
        with ThreadPoolExecutor(THREADS) as threads:
            told = {after.state for after in threads.map(store.record, ends * 2) if after}
        standing = store.get("job-1")
        assert standing is not None
        assert told == {standing.state}

    def test_processes_opening_an_empty_database_at_once_share_it(self, url: str) -> None:
        """One migrates while the others wait; then all write into one job without losing an event."""
        with get_context("spawn").Manager() as manager:
            start = manager.Barrier(PROCESSES)
            with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
                list(processes.map(_open_and_tell, [url] * PROCESSES, [start] * PROCESSES, range(PROCESSES)))
        store = open_job_store(url)
        assert len(store.events("job-1")) == PROCESSES * len(STEPS)
        store.close()


def _open_and_tell(url: str, start: Barrier, number: int) -> None:
    start.wait()
    store = open_job_store(url)
    store.add(job())
    for step in STEPS:
        store.record(event("finished", step, attempt=number + 1, record=record_of(step)))
    store.close()
