"""What every part of the SQL job store stands on: one database, and transactions that leave nothing half done."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.dialects import postgresql, sqlite

from shared.jobs.database import LOCK_WAIT_S, for_writing, name_of
from shared.jobs.failures import classified
from shared.jobs.tables import metadata

HELD_LIMIT_S: Final = 60
"""How long a transaction on PostgreSQL may stand idle while it publishes; then the server ends it."""

_INSERT: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class SqlPart:
    """One concern of a job store, on a database whose schema stands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = for_writing(engine)
        self._insert = _INSERT[engine.dialect.name]
        self._insert_once = {table: self._insert_unless_there(table) for table in metadata.sorted_tables}
        self._name = f"The job store ({name_of(engine)})"

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with classified(self._name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with classified(self._name), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _publishing(self) -> Iterator[Connection]:
        """A transaction that is held while somebody else's function runs: a process that hangs stops no other."""
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text(
                        "SELECT set_config('lock_timeout', :wait, true),"
                        " set_config('idle_in_transaction_session_timeout', :held, true)"
                    ),
                    {"wait": f"{LOCK_WAIT_S}s", "held": f"{HELD_LIMIT_S}s"},
                )
            yield connection

    def _insert_new(self, connection: Connection, table: Table, row: dict[str, Any]) -> bool:
        """Whether the row was inserted; a row that shares a unique value with it makes it stay out."""
        return connection.execute(self._insert_once[table], row).first() is not None

    def _insert_unless_there(self, table: Table) -> Any:
        return self._insert(table).on_conflict_do_nothing().returning(*table.primary_key)
