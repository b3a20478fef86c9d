"""The audit sees what is lost, doubled, changed or done again; a judge that finds nothing proves nothing."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import now
from shared.contracts.event import Event, EventKind, JobResult
from shared.contracts.verdict import VerdictSummary
from shared.jobs.open import open_job_store
from shared.jobs.port import Job, JobStore
from shared.storage.artifacts import store_artifact
from tests.chaos.audit import Repetition, audit_ends, audit_recovery, audit_repetition
from tests.chaos.faults import Struck
from tests.chaos.ledger import Act, Entry, Ledger
from tests.chaos.orders import Order, Reference, orders
from tests.chaos.plan import Fault
from tests.chaos.stages import RECIPE_NAME, RECIPES
from tests.fakes import MemoryStore


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    with closing(open_job_store(f"sqlite:///{tmp_path}/jobs.sqlite")) as store:
        yield store


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    return next(orders(3, tmp_path_factory.mktemp("photos")))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(RECIPES[RECIPE_NAME])


def add(jobs: JobStore, order: Order) -> None:
    at = now()
    job = Job(
        job_id="job",
        caller=order.request.caller,
        subject=order.request.subject,
        state="accepted",
        request=order.request,
        first_message=None,
        steps=(),
        created_at=at,
        updated_at=at,
    )
    jobs.add(job)


def tell(jobs: JobStore, order: Order, kind: EventKind, name: str, image: ArtifactRef | None = None) -> None:
    summary = VerdictSummary(passed=True, reasons=())
    result = None
    if image is not None:
        result = JobResult(image=image, verdict=image, summary=summary, trail=(), seconds=0.0, cost_usd=0.0)
    subject = order.request.subject
    jobs.record(
        Event(
            event_id=name,
            kind=kind,
            job_id="job",
            caller="c",
            subject=subject,
            at=now(),
            worker="w",
            result=result,
        )
    )


def test_a_job_that_is_done_with_the_right_bytes_breaks_nothing(
    jobs: JobStore, order: Order, reference: Reference
) -> None:
    store = MemoryStore()
    image = store_artifact(store, order.request.subject, "result", reference.image(order), "image/png")
    add(jobs, order)
    tell(jobs, order, "done", "end", image)
    ends = audit_ends({"job": order}, jobs, store, reference)
    assert (ends.lost, ends.ended_otherwise, ends.finished_twice, ends.changed) == ((), (), (), ())


def test_a_changed_byte_is_seen(jobs: JobStore, order: Order, reference: Reference) -> None:
    store = MemoryStore()
    image = store_artifact(store, order.request.subject, "result", reference.image(order) + b"\0", "image/png")
    add(jobs, order)
    tell(jobs, order, "done", "end", image)
    assert audit_ends({"job": order}, jobs, store, reference).changed == ("job",)


def test_a_job_that_never_arrived_and_one_that_never_ended_are_lost(
    jobs: JobStore, order: Order, reference: Reference
) -> None:
    add(jobs, order)
    assert audit_ends({"job": order, "other": order}, jobs, MemoryStore(), reference).lost == ("job", "other")


def test_two_ends_of_one_job_are_seen_even_where_the_first_stands(
    jobs: JobStore, order: Order, reference: Reference
) -> None:
    add(jobs, order)
    tell(jobs, order, "expired", "one")
    tell(jobs, order, "cancelled", "two")
    ends = audit_ends({"job": order}, jobs, MemoryStore(), reference)
    assert len(ends.finished_twice) == 1
    assert len(ends.ended_otherwise) == 1


def entry(act: Act, pid: int, at: float, what: str = "step") -> Entry:
    return Entry(act, "worker", pid, at, what)


def test_computations_are_counted_with_what_the_superfluous_ones_cost() -> None:
    entries = [
        entry("started", 1, 10.0),
        entry("died", 1, 10.5, "-9"),
        entry("started", 2, 11.0),
        entry("computed", 2, 13.0),
        entry("started", 2, 20.0, "other"),
        entry("computed", 2, 21.0, "other"),
        entry("ended", 2, 30.0, "0"),
    ]
    assert audit_repetition(entries) == Repetition(steps=2, runs=3, cut_short=1, steps_run_again=1, seconds=0.5)


def test_recovery_is_the_time_from_a_faults_end_to_the_next_end_of_a_job() -> None:
    fault = Fault("broker", 0.1, "kill -9", "broker")
    struck = [Struck(fault, "kill -9", 1.0, 4.0), Struck(fault, "kill -9", 10.0, 20.0)]
    recovery = audit_recovery(struck, {"a": 3.0, "b": 6.5, "c": 5.0, "d": 30.0})["broker killed and restarted"]
    assert (recovery.count, recovery.median_s, recovery.longest_s) == (2, 5.5, 10.0)


def test_the_account_of_several_writers_is_kept_in_whole_lines(tmp_path: Path) -> None:
    for who in ("one", "two"):
        Ledger(tmp_path / "ledger", who).note("started", f"step of {who}")
    assert [(each.who, each.what) for each in Ledger(tmp_path / "ledger", "").entries()] == [
        ("one", "step of one"),
        ("two", "step of two"),
    ]
