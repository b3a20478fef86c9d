"""What databases raise becomes an error of ours, by what would help."""

import sqlite3

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient
from shared.jobs.failures import class_of, classified


def told_by_postgresql(sqlstate: str) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, psycopg.errors.lookup(sqlstate)("no"))


def told_by_sqlite(code: int) -> DBAPIError:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    return DBAPIError("SELECT 1", {}, error)


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("57P01", Transient),  # the administrator ends the session
        ("57P03", Transient),  # the server is starting up
        ("40001", Transient),  # serialisation failure
        ("40P01", Transient),  # deadlock
        ("55P03", Transient),  # a lock is not to be had
        ("53300", Transient),  # too many connections
        ("53100", ResourceExhausted),  # disk full
        ("42P01", Permanent),  # the table does not exist
        ("42501", Permanent),  # not allowed
    ],
)
def test_postgresql_is_read_by_its_sqlstate(sqlstate: str, expected: type[DoctorGenError]) -> None:
    assert class_of(told_by_postgresql(sqlstate)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY, Transient),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Transient),
        (sqlite3.SQLITE_IOERR_READ, Transient),
        (sqlite3.SQLITE_FULL, ResourceExhausted),
        (sqlite3.SQLITE_NOMEM, ResourceExhausted),
        (sqlite3.SQLITE_READONLY, Permanent),
        (sqlite3.SQLITE_CORRUPT, Permanent),
    ],
)
def test_sqlite_is_read_by_its_primary_code(code: int, expected: type[DoctorGenError]) -> None:
    assert class_of(told_by_sqlite(code)) is expected


def test_a_server_that_says_nothing_is_transient() -> None:
    assert class_of(DBAPIError("", {}, psycopg.OperationalError("connection refused"))) is Transient


def test_a_mistake_in_our_own_call_is_permanent() -> None:
    assert class_of(DBAPIError("", {}, psycopg.ProgrammingError("no"))) is Permanent


def test_a_pool_in_use_is_transient() -> None:
    with (
        pytest.raises(Transient, match=r"^The job store has all its connections in use\.$"),
        classified("The job store"),
    ):
        raise PoolTimeout


def test_what_is_left_is_permanent() -> None:
    with (
        pytest.raises(Permanent, match=r"^The job store cannot be used: NoResultFound\.$"),
        classified("The job store"),
    ):
        raise NoResultFound


def test_the_message_holds_the_first_line_and_no_statement() -> None:
    """A statement's parameters may name people."""
    error = DBAPIError("SELECT 'Dr Who'", {"name": "Dr Who"}, psycopg.errors.DiskFull("disk full.\nDETAIL: Dr Who"))
    with pytest.raises(ResourceExhausted, match=r"^It does not answer as it should: disk full\.$"), classified("It"):
        raise error
