"""Jobs and their events, in SQL."""

from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, or_, select, update

from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event
from shared.jobs.journal import apply
from shared.jobs.port import Job
from shared.jobs.rows import changes_of, idempotency_column, job_of, lane_of, row_of
from shared.jobs.session import SqlPart
from shared.jobs.tables import OPEN, events, jobs, turns

_LOCKED: Final = select(jobs).where(jobs.c.job_id == bindparam("which")).with_for_update()
_CHANGE: Final = update(jobs).where(jobs.c.job_id == bindparam("which"))


class Records(SqlPart):
    """Adds jobs, applies events to them, and tells of both. Writers of one job wait for one another."""

    def add(self, job: Job) -> Job:
        with self._writing() as connection:
            if self._insert_new(connection, jobs, row_of(job)):
                self._queue_up(connection, job)
                return job
            same_key = (jobs.c.caller == job.caller) & (jobs.c.idempotency_key == idempotency_column(job))
            same_id = jobs.c.job_id == job.job_id
            standing = select(jobs).where(or_(same_id, same_key)).order_by(same_id.desc()).limit(1)
            return job_of(connection.execute(standing).mappings().one())

    def get(self, job_id: str) -> Job | None:
        found = self._jobs(select(jobs).where(jobs.c.job_id == job_id))
        return found[0] if found else None

    def record(self, event: Event) -> Job | None:
        with self._writing() as connection:
            row = connection.execute(_LOCKED, {"which": event.job_id}).mappings().one_or_none()
            if row is None:
                return None
            before = job_of(row)
            if event.kind != "progress" and not self._keep(connection, event):
                return before
            after = apply(before, event)
            if after != before:
                connection.execute(_CHANGE, {"which": event.job_id, **changes_of(after)})
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
        return self._jobs(select(jobs).where(OPEN).order_by(jobs.c.created_at, jobs.c.job_id))

    def of_subject(self, subject: str) -> tuple[Job, ...]:
        return self._jobs(select(jobs).where(jobs.c.subject == subject).order_by(jobs.c.created_at, jobs.c.job_id))

    def events(self, job_id: str) -> tuple[Event, ...]:
        query = select(events.c.document).where(events.c.job_id == job_id).order_by(events.c.seq)
        with self._reading() as connection:
            documents = connection.execute(query).scalars().all()
        return tuple(Event.from_json(document) for document in documents)

    def _jobs(self, query: Select[Any]) -> tuple[Job, ...]:
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(job_of(row) for row in rows)

    def _keep(self, connection: Connection, event: Event) -> bool:
        """Whether the event is new; it stands afterwards."""
        row = {"event_id": event.event_id, "job_id": event.job_id, "document": event.model_dump_json()}
        return self._insert_new(connection, events, row)

    def _queue_up(self, connection: Connection, job: Job) -> None:
        """See that the caller has a turn. The row is locked even where it has one: no releaser takes it away now."""
        if job.state != "accepted" or job.released_at is not None or lane_of(job) is None:
            return
        turn = {"lane": lane_of(job), "caller": job.caller, "released": 0, "waiting_since": job.created_at}
        connection.execute(self._give_a_turn, turn)

    @cached_property
    def _give_a_turn(self) -> Any:
        insert = self._insert(turns)
        return insert.on_conflict_do_update(
            index_elements=["lane", "caller"],
            set_={"waiting_since": insert.excluded.waiting_since},
            where=turns.c.waiting_since.is_(None),
        )
