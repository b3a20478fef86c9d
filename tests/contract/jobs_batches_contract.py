"""What any job store must do with batches."""

from typing import Any

import pytest

from shared.contracts.batch import BatchRequest, BatchSubject, BatchSummary
from shared.contracts.errors import Transient
from shared.contracts.event import EventKind, JobResult
from shared.contracts.request import PhotoRef
from shared.contracts.verdict import VerdictSummary
from shared.jobs.port import JobStore
from tests.contract.jobs_fixtures import StoreSuite, at_once, ignore
from tests.contract.jobs_samples import DIGEST, RESULT, TROUBLE, at, event, job, record_of

THREADS = 8


def part(number: int = 1, of: int = 1, **fields: Any) -> BatchRequest:
    """One part of a batch."""
    doctor = BatchSubject(subject="doctor-1", photos=(PhotoRef(key="inbox/photo.png", sha256=DIGEST),))
    told = {"batch_id": "batch-1", "caller": "clinic-a", "part": number, "parts": of, **fields}
    return BatchRequest(subjects=(doctor,), scenarios=("consultant",), **told)


def result(score: float | None, *, passed: bool, seconds: float = 2.0, cost_usd: float = 0.5) -> JobResult:
    """What a job comes to."""
    summary = VerdictSummary(passed=passed, identity_score=score, reasons=())
    return RESULT.model_copy(update={"summary": summary, "seconds": seconds, "cost_usd": cost_usd})


class BatchesContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_an_unknown_batch_is_none(self, store: JobStore) -> None:
        store.add(job())
        assert store.batch("batch-1") is None

    def test_a_batch_is_counted_from_its_jobs(self, store: JobStore) -> None:
        add(store, 6)
        store.record(event("started", "encode", job_id="job-1"))
        store.record(event("done", job_id="job-2", result=result(0.75, passed=True)))
        store.record(event("done", job_id="job-3", result=result(0.25, passed=False, seconds=4.0)))
        store.record(event("done", job_id="job-4", result=result(None, passed=False)))
        store.record(event("dead", "base", job_id="job-5", error=TROUBLE))
        store.add(job("stranger", batch_id="batch-2"))
        assert store.batch("batch-1") == BatchSummary(
            batch_id="batch-1",
            caller="clinic-a",
            jobs=6,
            by_state={"accepted": 1, "running": 1, "done": 3, "dead": 1},
            fraction=4 / 6,
            mean_score=0.5,
            lowest_score=0.25,
            passed=1,
            seconds=8.0,
            cost_usd=1.5,
            failures=("job-5 dead: the store is away",),
        )

    def test_a_batch_without_scores_has_no_mean(self, store: JobStore) -> None:
        add(store, 1)
        summary = store.batch("batch-1")
        assert summary is not None
        assert (summary.mean_score, summary.lowest_score, summary.fraction) == (None, None, 0.0)

    def test_what_a_job_cost_counts_where_it_never_got_done(self, store: JobStore) -> None:
        """A step whose result was another job's cost nothing."""
        add(store, 1)
        paid = record_of("encode", seconds=3.0).model_copy(update={"cost_usd": 0.25})
        store.record(event("finished", "encode", job_id="job-1", record=paid))
        store.record(event("finished", "base", job_id="job-1", record=record_of("base", reused=True, seconds=9.0)))
        store.record(event("dead", "score", job_id="job-1", error=TROUBLE))
        summary = store.batch("batch-1")
        assert summary is not None
        assert (summary.seconds, summary.cost_usd) == (3.0, 0.25)

    def test_the_first_ten_failures_are_told_with_state_and_reason(self, store: JobStore) -> None:
        add(store, 12)
        for number in range(1, 12):
            store.record(event("refused", job_id=f"job-{number}", error=TROUBLE))
        store.record(event("cancelled", job_id="job-12"))
        summary = store.batch("batch-1")
        assert summary is not None
        assert summary.failures == tuple(f"job-{number} refused: the store is away" for number in range(1, 11))

    @pytest.mark.parametrize("kind", ["refused", "dead", "cancelled", "expired"])
    def test_a_failure_without_an_error_is_told_by_its_state(self, store: JobStore, kind: EventKind) -> None:
        add(store, 1)
        store.record(event(kind, job_id="job-1"))
        summary = store.batch("batch-1")
        assert summary is not None
        assert summary.failures == (f"job-1 {kind}",)

    def test_a_job_that_is_replayed_counts_as_it_then_ends(self, store: JobStore) -> None:
        add(store, 1)
        store.record(event("dead", "base", job_id="job-1", error=TROUBLE))
        store.record(event("replayed", job_id="job-1", run=1))
        store.record(event("done", job_id="job-1", run=1, result=result(0.5, passed=True)))
        summary = store.batch("batch-1")
        assert summary is not None
        assert (summary.by_state, summary.passed, summary.failures) == ({"done": 1}, 1, ())

    def test_a_batch_that_was_filed_is_known_before_any_of_its_jobs(self, store: JobStore) -> None:
        store.file_batch_part(part(), 0)
        assert store.batch("batch-1") == BatchSummary(
            batch_id="batch-1", caller="clinic-a", jobs=0, by_state={}, fraction=1.0
        )

    def test_a_batch_is_closed_once_its_parts_are_filed_and_its_jobs_have_ended(self, store: JobStore) -> None:
        published: list[BatchSummary] = []
        add(store, 2)
        store.file_batch_part(part(1, of=2), 1)
        end(store, 1, 2)
        assert not store.close_batch("batch-1", published.append)
        add(store, 3)
        store.file_batch_part(part(2, of=2), 1)
        assert not store.close_batch("batch-1", published.append)
        end(store, 3)
        assert published == []
        assert store.close_batch("batch-1", published.append)
        assert published == [store.batch("batch-1")]
        assert (published[0].jobs, published[0].fraction) == (3, 1.0)

    def test_a_part_told_twice_is_one(self, store: JobStore) -> None:
        for _ in range(2):
            store.file_batch_part(part(1, of=2), 1)
        assert not store.close_batch("batch-1", ignore)

    def test_a_batch_is_not_closed_again(self, store: JobStore) -> None:
        """Not when asked again, nor when one of its jobs was replayed."""
        published: list[BatchSummary] = []
        file_and_end(store)
        assert store.close_batch("batch-1", published.append)
        assert not store.close_batch("batch-1", published.append)
        store.record(event("replayed", job_id="job-1", run=1))
        store.record(event("done", job_id="job-1", run=1, result=RESULT))
        assert not store.close_batch("batch-1", published.append)
        assert len(published) == 1

    def test_a_batch_that_was_never_filed_is_counted_and_never_closed(self, store: JobStore) -> None:
        add(store, 1)
        end(store, 1)
        assert store.batch("batch-1") is not None
        assert not store.close_batch("batch-1", ignore)

    def test_a_publish_that_fails_leaves_the_batch_open(self, store: JobStore) -> None:
        file_and_end(store)

        def publish(_: BatchSummary) -> None:
            raise Transient("the broker is away")

        with pytest.raises(Transient, match="the broker is away"):
            store.close_batch("batch-1", publish)
        assert store.close_batch("batch-1", ignore)

    def test_threads_closing_one_batch_publish_once(self, store: JobStore) -> None:
        file_and_end(store)
        published: list[BatchSummary] = []
        told = at_once(lambda _: store.close_batch("batch-1", published.append), THREADS)
        assert (sorted(told), len(published)) == ([False] * (THREADS - 1) + [True], 1)

    def test_threads_that_each_end_a_job_and_close_publish_once(self, store: JobStore) -> None:
        """Whoever ends the last job finds the batch over; nobody's end is overlooked."""
        add(store, THREADS)
        store.file_batch_part(part(), THREADS)
        published: list[BatchSummary] = []

        def finish(number: int) -> bool:
            end(store, number + 1)
            return store.close_batch("batch-1", published.append)

        assert sum(at_once(finish, THREADS)) == len(published) == 1
        assert published[0].by_state == {"done": THREADS}


def add(store: JobStore, count: int) -> None:
    """Jobs job-1 … job-count of batch-1; those that stand already stay as they are."""
    for number in range(1, count + 1):
        store.add(job(f"job-{number}", batch_id="batch-1", caller="clinic-a", created_at=at(number)))


def end(store: JobStore, *numbers: int) -> None:
    """Let jobs be done."""
    for number in numbers:
        store.record(event("done", job_id=f"job-{number}", result=RESULT))


def file_and_end(store: JobStore) -> None:
    """A batch of one part whose one job is done."""
    add(store, 1)
    store.file_batch_part(part(), 1)
    end(store, 1)
