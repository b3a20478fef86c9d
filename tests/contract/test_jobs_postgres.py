"""The job store on PostgreSQL keeps the contract, and what only a server promises."""

import socket
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.event import listen

from shared.contracts.errors import Permanent, Transient
from shared.jobs.database import connect
from shared.jobs.open import open_job_store
from shared.jobs.port import Job
from shared.jobs.sql import SqlJobStore
from tests.contract.jobs_batches_contract import BatchesContract
from tests.contract.jobs_contract import JobStoreContract
from tests.contract.jobs_fixtures import ignore
from tests.contract.jobs_letters_contract import LettersContract
from tests.contract.jobs_migrations import (
    assert_jobs_of_the_first_schema_are_taken_over,
    assert_schema_is_what_the_tables_say,
    assert_the_way_back_keeps_jobs,
    claim_a_newer_schema,
)
from tests.contract.jobs_release_contract import ReleaseContract
from tests.contract.jobs_samples import event, job
from tests.contract.jobs_subjects_contract import SubjectsContract
from tests.contract.jobs_workers_contract import WorkersContract
from tests.servers.postgres import PASSWORD, Postgres


class OnPostgres:
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestJobs(OnPostgres, JobStoreContract):
    """Jobs on PostgreSQL."""


class TestReleases(OnPostgres, ReleaseContract):
    """Releases on PostgreSQL."""


class TestLetters(OnPostgres, LettersContract):
    """Letters on PostgreSQL."""


class TestWorkers(OnPostgres, WorkersContract):
    """Workers on PostgreSQL."""


class TestBatches(OnPostgres, BatchesContract):
    """Batches on PostgreSQL."""


class TestSubjects(OnPostgres, SubjectsContract):
    """Subjects on PostgreSQL."""


def test_the_migrations_make_the_tables(postgres_url: str) -> None:
    assert_schema_is_what_the_tables_say(postgres_url)


def test_jobs_of_the_first_schema_are_taken_over(postgres_url: str) -> None:
    assert_jobs_of_the_first_schema_are_taken_over(postgres_url)


def test_the_way_back_keeps_jobs(postgres_url: str) -> None:
    assert_the_way_back_keeps_jobs(postgres_url)


def test_a_database_of_a_newer_version_is_left_alone(postgres_url: str) -> None:
    claim_a_newer_schema(postgres_url)
    with pytest.raises(Permanent, match="revision 9999, unknown to this version"):
        open_job_store(postgres_url)


def test_a_store_goes_on_after_the_server_dropped_its_connections(postgres_server: Postgres, postgres_url: str) -> None:
    store = open_job_store(postgres_url)
    store.add(job())
    postgres_server.disconnect_everybody()
    after = store.record(event("started", "encode"))
    assert after is not None
    assert after.state == "running"
    store.close()


def test_an_event_waits_for_another_writer_of_its_job(postgres_url: str) -> None:
    """A lock on the job's row is held by another session; the event is recorded once that one is done."""
    store = open_job_store(postgres_url)
    store.add(job())
    with psycopg.connect(postgres_url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("UPDATE jobs SET subject = 'doctor-2'")
        recorded = thread.submit(store.record, event("started", "encode"))
        with psycopg.connect(postgres_url, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while watcher.execute(waiting).fetchone() == (0,):
                assert not recorded.done()
        other.commit()
        after = recorded.result()
    assert after is not None
    assert (after.state, after.subject) == ("running", "doctor-2")
    store.close()


def test_while_a_job_is_published_others_add_and_record_and_releasers_wait_their_turn(postgres_url: str) -> None:
    """The caller whose job it is may add the next meanwhile; another gateway then releases it."""
    store = open_job_store(postgres_url)
    store.add(job("job-1"))
    store.add(job("job-2", caller="clinic-b"))
    with ThreadPoolExecutor(1) as thread, psycopg.connect(postgres_url, autocommit=True) as watcher:
        others: list[Future[Job | None]] = []

        def publish(_: Job) -> None:
            store.add(job("job-3"))
            store.record(event("cancelled", job_id="job-2"))
            others.append(thread.submit(store.release, "interactive", 9, ignore))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watcher.execute(waiting).fetchone() == (0,):
                assert not others[0].done()

        first = store.release("interactive", 9, publish)
        second = others[0].result()
    assert [released and released.job_id for released in (first, second)] == ["job-1", "job-3"]
    store.close()


def test_a_job_that_is_just_being_added_is_not_overlooked(postgres_url: str) -> None:
    """Its caller's turn has come and nothing of it is seen to wait; the releaser waits for the end of the addition."""
    store = open_job_store(postgres_url)
    store.add(job("job-1"))
    store.record(event("cancelled", job_id="job-1"))
    engine = connect(postgres_url)
    adding, added = Event(), Event()

    def hold(_: Connection) -> None:
        adding.set()
        added.wait()

    listen(engine, "commit", hold)
    slow = SqlJobStore(engine)
    with ThreadPoolExecutor(2) as threads, psycopg.connect(postgres_url, autocommit=True) as watcher:
        threads.submit(slow.add, job("job-2"))
        adding.wait()
        released = threads.submit(store.release, "interactive", 9, ignore)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while watcher.execute(waiting).fetchone() == (0,) and not released.done():
            pass
        added.set()
        taken = released.result()
    assert taken is not None
    assert taken.job_id == "job-2"
    for each in (store, slow):
        each.close()


def test_a_releaser_that_the_server_disconnects_while_it_publishes_leaves_the_job_waiting(
    postgres_server: Postgres, postgres_url: str
) -> None:
    """It is published again, which is harmless."""
    store = open_job_store(postgres_url)
    store.add(job())
    with pytest.raises(Transient):
        store.release("interactive", 1, lambda _: postgres_server.disconnect_everybody())
    assert store.waiting() == 1
    assert store.release("interactive", 1, ignore) is not None
    store.close()


def test_a_releaser_that_hangs_while_it_publishes_is_disconnected_after_a_minute(postgres_url: str) -> None:
    """Otherwise it would stop all other gateways. The limit is the server's, for the transaction alone."""
    open_job_store(postgres_url).close()
    limits: list[str] = []
    engine = connect(postgres_url)
    shown = "SHOW idle_in_transaction_session_timeout"
    listen(engine, "commit", lambda connection: limits.append(connection.exec_driver_sql(shown).scalar()))
    store = SqlJobStore(engine)
    store.add(job())
    store.release("interactive", 1, ignore)
    store.record(event("started", "encode"))
    assert limits == ["0", "1min", "0"]
    store.close()


def test_a_server_that_is_not_there_is_transient_and_the_password_is_not_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Transient, match=f"PostgreSQL database jobs at 127.0.0.1:{port}.*refused") as raised:
            open_job_store(f"postgresql://doctorgen:{PASSWORD}@127.0.0.1:{port}/jobs?password={PASSWORD}")
    assert PASSWORD not in _everything_said(raised.value)


def test_a_wrong_password_is_told_without_the_password(postgres_server: Postgres) -> None:
    url = postgres_server.url().replace(PASSWORD, "an-old-password")
    with pytest.raises(Transient, match="password authentication failed") as raised:
        open_job_store(url)
    assert "an-old-password" not in _everything_said(raised.value)


def test_a_database_that_does_not_exist_is_named(postgres_server: Postgres) -> None:
    with pytest.raises(Transient, match='database "nowhere" does not exist'):
        open_job_store(postgres_server.url("nowhere"))


def _everything_said(error: BaseException | None) -> str:
    return "" if error is None else f"{error!r} {error} {_everything_said(error.__cause__ or error.__context__)}"
