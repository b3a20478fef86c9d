"""Opens a database for the job store: which URLs are meant, and how each kind is driven."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from shared.contracts.errors import InvalidInput

FIELD: Final = "jobs_url"
MEND: Final = (
    "Write sqlite:///relative/path, sqlite:////absolute/path or postgresql://user:password@host:port/database."
)
LOCK_WAIT_S: Final = 10
"""How long a call waits for SQLite's other writer; `?timeout=` in the URL goes before it."""
WAL_PAUSE_S: Final = 0.005

_POSTGRESQL_PATIENCE: Final = {"connect_timeout": 5, "keepalives_idle": 30, "tcp_user_timeout": 15_000}
"""libpq's parameters (seconds, seconds, milliseconds); the URL's own query goes before them."""


def connect(url: str) -> Engine:
    """An engine for a job store's URL. PostgreSQL is not called yet; SQLite's folder is made where it is missing.

    Raises:
        InvalidInput: not a URL of ours, or a path that cannot hold a database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidInput(FIELD, "this is not a database URL", MEND) from None
    match parsed.drivername:
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            return _postgresql(parsed)
        case other:
            raise InvalidInput(FIELD, f"'{other}' is no database the job store speaks", MEND)


def name_of(engine: Engine) -> str:
    """The database in words fit for a message: no user, no password."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"SQLite file {url.database}"
    return f"PostgreSQL database {url.database} at {url.host or 'the local socket'}:{url.port or 5432}"


def for_writing(engine: Engine) -> Engine:
    """The same pool; transactions take SQLite's write lock at once, so that none fails half-way."""
    return engine.execution_options(job_store_begin="BEGIN IMMEDIATE")


def outside_transactions(engine: Engine) -> Engine:
    """The same pool; every statement stands for itself, as VACUUM must."""
    return engine.execution_options(job_store_begin=None, isolation_level="AUTOCOMMIT")


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput(FIELD, "a SQLite job store needs a file; this URL names none", MEND)
    try:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        found = f"the folder of {url.database} cannot be made: {error.strerror}"
        raise InvalidInput(FIELD, found, "Name a path you may write to.") from error
    patience = {} if "timeout" in url.query else {"timeout": LOCK_WAIT_S}
    engine = create_engine(url, hide_parameters=True, connect_args={**patience, "isolation_level": None})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Readers beside one writer; a power cut loses at most the last transactions; zeros go over what is deleted."""
    _turn_to_wal(connection)
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    """Two that turn a new file at once would deadlock; SQLite then fails one of them without waiting for its turn."""
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("job_store_begin", "BEGIN")
    if begin is not None:
        connection.exec_driver_sql(begin)


def _postgresql(url: URL) -> Engine:
    patience = {name: value for name, value in _POSTGRESQL_PATIENCE.items() if name not in url.query}
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        connect_args=patience,
    )
