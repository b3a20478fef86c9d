"""The job store on SQLAlchemy: SQLite and PostgreSQL."""

from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, Table, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event
from shared.jobs.database import for_writing, name_of
from shared.jobs.failures import classified
from shared.jobs.journal import ENDS, apply
from shared.jobs.port import Job
from shared.jobs.rows import changes_of, idempotency_column, job_of, row_of
from shared.jobs.tables import events, jobs

_INSERT: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class SqlJobStore:
    """A job store on a database whose schema stands. Writers of one job wait for one another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = for_writing(engine)
        self._insert = _INSERT[engine.dialect.name]
        self._name = f"The job store ({name_of(engine)})"

    def add(self, job: Job) -> Job:
        with classified(self._name), self._writer.begin() as connection:
            if self._insert_new(connection, jobs, row_of(job)):
                return job
            same_key = (jobs.c.caller == job.caller) & (jobs.c.idempotency_key == idempotency_column(job))
            same_id = jobs.c.job_id == job.job_id
            standing = select(jobs).where(or_(same_id, same_key)).order_by(same_id.desc()).limit(1)
            return job_of(connection.execute(standing).mappings().one())

    def get(self, job_id: str) -> Job | None:
        found = self._jobs(select(jobs).where(jobs.c.job_id == job_id))
        return found[0] if found else None

    def record(self, event: Event) -> Job | None:
        with classified(self._name), self._writer.begin() as connection:
            locked = select(jobs).where(jobs.c.job_id == event.job_id).with_for_update()
            row = connection.execute(locked).mappings().one_or_none()
            if row is None:
                return None
            before = job_of(row)
            if event.kind != "progress" and not self._keep(connection, event):
                return before
            after = apply(before, event)
            if after != before:
                connection.execute(update(jobs).where(jobs.c.job_id == event.job_id).values(changes_of(after)))
            return after

    def recent(self, limit: int = 20, *, subject: str | None = None, batch_id: str | None = None) -> tuple[Job, ...]:
        if limit < 1:
            raise InvalidInput("limit", f"{limit} jobs were asked for", "Ask for at least one.")
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.job_id).limit(limit)
        if subject is not None:
            query = query.where(jobs.c.subject == subject)
        if batch_id is not None:
            query = query.where(jobs.c.batch_id == batch_id)
        return self._jobs(query)

    def unfinished(self) -> tuple[Job, ...]:
        open_ones = jobs.c.state.not_in(ENDS.values())
        return self._jobs(select(jobs).where(open_ones).order_by(jobs.c.created_at, jobs.c.job_id))

    def events(self, job_id: str) -> tuple[Event, ...]:
        query = select(events.c.document).where(events.c.job_id == job_id).order_by(events.c.seq)
        with classified(self._name), self._engine.connect() as connection:
            documents = connection.execute(query).scalars().all()
        return tuple(Event.model_validate_json(document) for document in documents)

    def close(self) -> None:
        self._engine.dispose()

    def _jobs(self, query: Select[Any]) -> tuple[Job, ...]:
        with classified(self._name), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(job_of(row) for row in rows)

    def _keep(self, connection: Connection, event: Event) -> bool:
        """Whether the event is new; it stands afterwards."""
        row = {"event_id": event.event_id, "job_id": event.job_id, "document": event.model_dump_json()}
        return self._insert_new(connection, events, row)

    def _insert_new(self, connection: Connection, table: Table, row: dict[str, Any]) -> bool:
        """Whether the row was inserted; a row that shares a unique value with it makes it stay out."""
        insert = self._insert(table).values(row).on_conflict_do_nothing().returning(*table.primary_key)
        return connection.execute(insert).first() is not None
