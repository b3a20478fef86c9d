"""The job store on SQLite keeps the contract, and what only SQLite promises."""

import sqlite3
from collections import deque
from pathlib import Path
from threading import Timer

import pytest
from sqlalchemy.event import listen

from shared.contracts.errors import InvalidInput, Permanent, ResourceExhausted, Transient
from shared.jobs.database import connect
from shared.jobs.migrate import upgrade_engine
from shared.jobs.open import open_job_store
from shared.jobs.port import Job
from shared.jobs.sql import SqlJobStore
from tests.contract.jobs_batches_contract import BatchesContract
from tests.contract.jobs_contract import JobStoreContract
from tests.contract.jobs_letters_contract import LettersContract, letter
from tests.contract.jobs_migrations import (
    assert_jobs_of_the_first_schema_are_taken_over,
    assert_schema_is_what_the_tables_say,
    assert_the_way_back_keeps_jobs,
    claim_a_newer_schema,
)
from tests.contract.jobs_release_contract import ReleaseContract
from tests.contract.jobs_samples import TROUBLE, event, job, request
from tests.contract.jobs_subjects_contract import SubjectsContract
from tests.contract.jobs_workers_contract import WorkersContract


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


class OnSqlite:
    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"sqlite:///{path}"


class TestJobs(OnSqlite, JobStoreContract):
    """Jobs on SQLite."""


class TestReleases(OnSqlite, ReleaseContract):
    """Releases on SQLite."""


class TestLetters(OnSqlite, LettersContract):
    """Letters on SQLite."""


class TestWorkers(OnSqlite, WorkersContract):
    """Workers on SQLite."""


class TestBatches(OnSqlite, BatchesContract):
    """Batches on SQLite."""


class TestSubjects(OnSqlite, SubjectsContract):
    """Subjects on SQLite."""


def test_the_migrations_make_the_tables(path: Path) -> None:
    assert_schema_is_what_the_tables_say(f"sqlite:///{path}")


def test_jobs_of_the_first_schema_are_taken_over(path: Path) -> None:
    assert_jobs_of_the_first_schema_are_taken_over(f"sqlite:///{path}")


def test_the_way_back_keeps_jobs(path: Path) -> None:
    assert_the_way_back_keeps_jobs(f"sqlite:///{path}")


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    claim_a_newer_schema(f"sqlite:///{path}")
    with pytest.raises(Permanent, match="revision 9999, unknown to this version"):
        open_job_store(f"sqlite:///{path}")


def test_the_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    """Only the owner may read it: jobs name people."""
    open_job_store(f"sqlite:///{tmp_path}/state/jobs.db").close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_connections_are_set_up_for_a_writer_beside_readers(path: Path) -> None:
    engine = connect(f"sqlite:///{path}")
    with engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        values = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas]
    engine.dispose()
    assert values == ["wal", 1, 1, 10_000, 1]


def test_a_reader_does_not_wait_for_a_writer(path: Path) -> None:
    store = open_job_store(f"sqlite:///{path}")
    store.add(job())
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert store.get("job-1") == job()
    writer.close()
    store.close()


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"jobs_url: the folder of .*/file/jobs.db cannot be made"):
        open_job_store(f"sqlite:///{tmp_path}/file/jobs.db")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="unable to open database file"):
        open_job_store(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_text("shopping list " * 100)
    with pytest.raises(Permanent, match="file is not a database"):
        open_job_store(f"sqlite:///{path}")
    assert path.read_text() == "shopping list " * 100


def test_a_full_disk_is_resource_exhausted(path: Path) -> None:
    """A page limit stands in for the disk's end: SQLite reports both as SQLITE_FULL."""
    engine = connect(f"sqlite:///{path}")
    upgrade_engine(engine)
    engine.dispose()
    listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 30").close())
    store = SqlJobStore(engine)
    jobs = (job(f"job-{number}") for number in range(100))
    with pytest.raises(ResourceExhausted, match="database or disk is full"):
        deque(map(store.add, jobs), maxlen=0)
    assert store.get("job-0") == job("job-0")
    store.close()


def test_a_lock_held_for_too_long_is_transient(path: Path) -> None:
    open_job_store(f"sqlite:///{path}").close()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    impatient = open_job_store(f"sqlite:///{path}?timeout=0.05")
    with pytest.raises(Transient, match=f"SQLite file {path}.*database is locked"):
        impatient.add(job())
    writer.close()
    assert impatient.add(job()) == job()
    impatient.close()


def test_what_a_call_returned_is_in_the_files(path: Path) -> None:
    """A second opening reads it while the first is still there: nothing waits for a close."""
    store = open_job_store(f"sqlite:///{path}")
    store.add(job())
    store.record(event("started", "encode"))
    other = open_job_store(f"sqlite:///{path}")
    assert other.events("job-1") == (event("started", "encode"),)
    other.close()
    store.close()


def test_a_new_file_that_another_process_writes_to_is_waited_for(path: Path) -> None:
    """SQLite does not wait by itself where a file has yet to be turned to write-ahead logging."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = Timer(0.2, other.rollback)
    done.start()
    store = open_job_store(f"sqlite:///{path}")
    assert store.add(job()) == job()
    store.close()
    done.join()
    other.close()


def test_no_byte_of_an_erased_subject_is_left_on_the_disk(path: Path) -> None:
    """Among other subjects' rows that come, change and go, with documents that fill pages of their own."""
    store = open_job_store(f"sqlite:///{path}")
    for number in range(40):
        doctor = f"the-doctor-{number % 2}"
        words = f"words of {doctor} " * (5 * number)
        asked = request(subject=doctor, custom_prompt=words[:1000].strip())
        store.add(job(f"job-{number}", subject=doctor, request=asked))
        store.record(event("started", "encode", job_id=f"job-{number}").model_copy(update={"subject": doctor}))
        store.file_letter(letter(f"letter-{number}", subject=doctor, body=words))
        if number % 5 == 0:
            store.record(event("dead", job_id=f"job-{number}", error=TROUBLE))
    written = [file for file in path.parent.iterdir() if b"the-doctor-1" in file.read_bytes()]
    assert path.with_name("jobs.db-wal") in written
    assert store.erase_subject("the-doctor-1")["jobs"] == 20
    left = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert [name for name, data in left.items() if b"the-doctor-1" in data] == []
    assert b"the-doctor-0" in left["jobs.db"]
    store.close()


def test_an_erasure_cleans_up_what_an_older_version_left_behind(path: Path) -> None:
    """It deleted and changed rows without zeroing them."""
    store = open_job_store(f"sqlite:///{path}")
    for job_id in ("job-1", "job-2"):
        store.add(job(job_id, subject="the-doctor"))
    older = sqlite3.connect(path, isolation_level=None)
    older.execute("PRAGMA secure_delete = OFF")
    older.execute("DELETE FROM jobs WHERE job_id = 'job-1'")
    older.execute("PRAGMA wal_checkpoint")
    older.close()
    assert store.erase_subject("the-doctor")["jobs"] == 1
    assert [file.name for file in path.parent.iterdir() if b"the-doctor" in file.read_bytes()] == []
    store.close()


def test_an_erasure_that_a_reader_stands_in_the_way_of_says_so_and_is_made_good_by_the_next(path: Path) -> None:
    store = open_job_store(f"sqlite:///{path}?timeout=0.05")
    store.add(job(subject="the-doctor"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchone()
    with pytest.raises(
        Transient, match=r"is being read: what was erased is still in its write-ahead log\. Try again\."
    ):
        store.erase_subject("the-doctor")
    assert store.get("job-1") is None
    reader.close()
    assert store.erase_subject("the-doctor")["jobs"] == 0
    assert [file.name for file in path.parent.iterdir() if b"the-doctor" in file.read_bytes()] == []
    store.close()


def test_a_release_that_publishes_for_too_long_is_transient_to_other_writers(path: Path) -> None:
    store = open_job_store(f"sqlite:///{path}")
    impatient = open_job_store(f"sqlite:///{path}?timeout=0.05")
    store.add(job())

    def publish(_: Job) -> None:
        with pytest.raises(Transient, match="database is locked"):
            impatient.add(job("job-2"))

    assert store.release("interactive", 1, publish) is not None
    assert impatient.add(job("job-2")) == job("job-2")
    for each in (store, impatient):
        each.close()
