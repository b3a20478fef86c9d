"""Takes what was deleted off the disk, as far as the database lets us. docs/job-states.md says how far."""

from sqlalchemy import Connection, Engine, text

from shared.contracts.errors import Transient
from shared.jobs.database import outside_transactions
from shared.jobs.failures import classified


def scrub(engine: Engine, name: str, *, removed: bool) -> None:
    """Leave nothing of deleted rows in SQLite's files; let PostgreSQL reuse their space.

    Deleted bytes linger in SQLite's free pages, in gaps of pages in use, and in its write-ahead log; so the file is
    written anew and the log emptied. Where no row was `removed` and no page is free, there is only the log to empty.

    Raises:
        Transient: somebody reads or writes for too long; the rows are gone, but call again.
    """
    with classified(name), outside_transactions(engine).connect() as connection:
        if engine.dialect.name == "postgresql":
            if removed:
                connection.execute(text("VACUUM jobs, events, dead_letters"))
            return
        if removed or connection.execute(text("PRAGMA freelist_count")).scalar_one():
            connection.execute(text("VACUUM"))
        if not _empty_the_log(connection):
            raise Transient(f"{name} is being read: what was erased is still in its write-ahead log. Try again.")


def _empty_the_log(connection: Connection) -> bool:
    """Whether SQLite's write-ahead log is empty now; a reader of an older state stands in the way."""
    busy: int = connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
    return busy == 0
