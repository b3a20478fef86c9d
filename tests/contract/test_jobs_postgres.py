"""The job store on PostgreSQL keeps the contract, and what only a server promises."""

import socket
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from shared.contracts.errors import Permanent, Transient
from shared.jobs.open import open_job_store
from tests.contract.jobs_contract import JobStoreContract
from tests.contract.jobs_migrations import assert_schema_is_what_the_tables_say, claim_a_newer_schema
from tests.contract.jobs_samples import event, job
from tests.servers.postgres import PASSWORD, Postgres


class TestPostgres(JobStoreContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


def test_the_migrations_make_the_tables(postgres_url: str) -> None:
    assert_schema_is_what_the_tables_say(postgres_url)


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
