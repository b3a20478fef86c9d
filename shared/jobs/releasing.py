"""Whose job goes next, in SQL: round-robin over the callers of a lane.

Every caller with a waiting job has a turn, and the turn of the caller that was released longest ago comes next. Turns
are taken away lazily: only once a caller's turn has come and none of its jobs is found to wait.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, func, literal, select, text, update

from shared.contracts.base import now
from shared.contracts.request import Lane
from shared.jobs.port import Job
from shared.jobs.rows import job_of
from shared.jobs.session import SqlPart
from shared.jobs.tables import HAS_A_TURN, IN_FLIGHT, WAITING, jobs, turns

_LOCKS: Final[dict[Lane, int]] = {"interactive": 0x72656C0001, "bulk": 0x72656C0002}
"""The PostgreSQL advisory locks that only one releaser of a lane holds at a time; any numbers nobody else uses."""


class Releasing(SqlPart):
    """Publishes waiting jobs, one at a time and each caller in turn."""

    def release(self, lane: Lane, window: int, publish: Callable[[Job], None]) -> Job | None:
        with self._publishing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCKS[lane]})
            if _is_full(connection, lane, window):
                return None
            waiting = _next(connection, lane)
            if waiting is None:
                return None
            released = waiting.model_copy(update={"released_at": now()})
            publish(released)
            _mark(connection, lane, released)
            return released

    def waiting(self, lane: Lane | None = None, *, caller: str | None = None) -> int:
        lanes = [lane] if lane else list(_LOCKS)
        query = select(func.count()).select_from(jobs).where(jobs.c.lane.in_(lanes), WAITING)
        if caller is not None:
            query = query.where(jobs.c.caller == caller)
        with self._reading() as connection:
            return connection.execute(query).scalar_one()

    def in_flight(self, lane: Lane) -> int:
        with self._reading() as connection:
            return connection.execute(
                select(func.count()).select_from(jobs).where(jobs.c.lane == lane, IN_FLIGHT)
            ).scalar_one()

    def released(self) -> tuple[Job, ...]:
        query = select(jobs).where(jobs.c.lane.in_(_LOCKS), IN_FLIGHT)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(sorted(map(job_of, rows), key=lambda job: (job.created_at, job.job_id)))


def _is_full(connection: Connection, lane: Lane, window: int) -> bool:
    if window < 1:
        return True
    counted = select(literal(1)).select_from(jobs).where(jobs.c.lane == lane, IN_FLIGHT).limit(window).subquery()
    return connection.execute(select(func.count()).select_from(counted)).scalar_one() >= window


def _next(connection: Connection, lane: Lane) -> Job | None:
    while (caller := _whose_turn(connection, lane)) is not None:
        oldest = _oldest(connection, lane, caller)
        if oldest is not None:
            return oldest
        _take_turn_away(connection, lane, caller)
    return None


def _whose_turn(connection: Connection, lane: Lane) -> str | None:
    turn = (
        select(turns.c.caller)
        .where(turns.c.lane == lane, HAS_A_TURN)
        .order_by(turns.c.released, turns.c.waiting_since, turns.c.caller)
        .limit(1)
    )
    return connection.execute(turn).scalar()


def _oldest(connection: Connection, lane: Lane, caller: str) -> Job | None:
    query = (
        select(jobs)
        .where(jobs.c.lane == lane, jobs.c.caller == caller, WAITING)
        .order_by(jobs.c.created_at, jobs.c.job_id)
        .limit(1)
        .with_for_update()
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else job_of(row)


def _take_turn_away(connection: Connection, lane: Lane, caller: str) -> None:
    """Unless a job came meanwhile: whoever adds one holds the turn's row until that job can be seen."""
    whose = (turns.c.lane == lane) & (turns.c.caller == caller)
    connection.execute(select(turns.c.caller).where(whose).with_for_update())
    still = select(jobs.c.job_id).where(jobs.c.lane == lane, jobs.c.caller == caller, WAITING).limit(1)
    if connection.execute(still).first() is None:
        connection.execute(update(turns).where(whose).values(waiting_since=None))


def _mark(connection: Connection, lane: Lane, job: Job) -> None:
    connection.execute(update(jobs).where(jobs.c.job_id == job.job_id).values(released_at=job.released_at))
    latest = select(func.max(turns.c.released)).where(turns.c.lane == lane).scalar_subquery()
    whose = (turns.c.lane == lane) & (turns.c.caller == job.caller)
    connection.execute(update(turns).where(whose).values(released=latest + 1))
