"""Whose job goes next, in SQL: round-robin over the callers of a lane.

Every caller with a waiting job has a turn, and the turn of the caller that was released longest ago comes next. Turns
are taken away lazily: only once a caller's turn has come and none of its jobs is found to wait.
"""

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, func, literal, select, text, update

from shared.contracts.base import now
from shared.contracts.request import Lane
from shared.jobs.port import Job
from shared.jobs.rows import job_of
from shared.jobs.session import SqlPart
from shared.jobs.tables import HAS_A_TURN, IN_FLIGHT, WAITING, jobs, turns

_LOCKS: Final[dict[Lane, int]] = {"interactive": 0x72656C0001, "bulk": 0x72656C0002}
"""The PostgreSQL advisory locks that only one releaser of a lane holds at a time; any numbers nobody else uses."""

_THIS_LANE: Final = jobs.c.lane == bindparam("in_lane")
_ITS_WAITING: Final = (_THIS_LANE, jobs.c.caller == bindparam("of_caller"), WAITING)
_TURN_IN_LANE: Final = turns.c.lane == bindparam("in_lane")
_ITS_TURN: Final = _TURN_IN_LANE & (turns.c.caller == bindparam("of_caller"))

_SOME_FLYING: Final = select(literal(1)).select_from(jobs).where(_THIS_LANE, IN_FLIGHT).limit(bindparam("window"))
_FLYING: Final = select(func.count()).select_from(_SOME_FLYING.subquery())
_WHOSE_TURN: Final = (
    select(turns.c.caller)
    .where(_TURN_IN_LANE, HAS_A_TURN)
    .order_by(turns.c.released, turns.c.waiting_since, turns.c.caller)
    .limit(1)
)
_OLDEST: Final = select(jobs).where(*_ITS_WAITING).order_by(jobs.c.created_at, jobs.c.job_id).limit(1).with_for_update()
_LOCK_TURN: Final = select(turns.c.caller).where(_ITS_TURN).with_for_update()
_STILL_WAITS: Final = select(jobs.c.job_id).where(*_ITS_WAITING).limit(1)
_TAKE_AWAY: Final = update(turns).where(_ITS_TURN).values(waiting_since=None)
_RELEASED: Final = update(jobs).where(jobs.c.job_id == bindparam("job")).values(released_at=bindparam("at"))
_LATEST: Final = select(func.max(turns.c.released)).where(_TURN_IN_LANE).scalar_subquery()
_HAD_TURN: Final = update(turns).where(_ITS_TURN).values(released=_LATEST + 1)


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
    return window < 1 or connection.execute(_FLYING, {"in_lane": lane, "window": window}).scalar_one() >= window


def _next(connection: Connection, lane: Lane) -> Job | None:
    while (caller := connection.execute(_WHOSE_TURN, {"in_lane": lane}).scalar()) is not None:
        row = connection.execute(_OLDEST, {"in_lane": lane, "of_caller": caller}).mappings().one_or_none()
        if row is not None:
            return job_of(row)
        _take_turn_away(connection, {"in_lane": lane, "of_caller": caller})
    return None


def _take_turn_away(connection: Connection, whose: Mapping[str, str]) -> None:
    """Unless a job came meanwhile: whoever adds one holds the turn's row until that job can be seen."""
    connection.execute(_LOCK_TURN, whose)
    if connection.execute(_STILL_WAITS, whose).first() is None:
        connection.execute(_TAKE_AWAY, whose)


def _mark(connection: Connection, lane: Lane, job: Job) -> None:
    connection.execute(_RELEASED, {"job": job.job_id, "at": job.released_at})
    connection.execute(_HAD_TURN, {"in_lane": lane, "of_caller": job.caller})
