"""Batches, in SQL: what was filed, and how its jobs stand."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, case, func, select, update

from shared.contracts.base import now
from shared.contracts.batch import BatchRequest, BatchSummary
from shared.contracts.step import ErrorAccount
from shared.jobs.journal import ENDS
from shared.jobs.session import SqlPart
from shared.jobs.tables import FAILED, IN_A_BATCH, OPEN, batch_parts, batches, jobs

FAILURES_SHOWN: Final = 10


_COUNTS: Final = (
    select(
        jobs.c.state,
        func.count().label("jobs"),
        func.count(jobs.c.score).label("scored"),
        func.sum(jobs.c.score).label("scores"),
        func.min(jobs.c.score).label("lowest"),
        func.sum(case((jobs.c.passed, 1), else_=0)).label("passed"),
        func.coalesce(func.sum(jobs.c.seconds), 0.0).label("seconds"),
        func.coalesce(func.sum(jobs.c.cost_usd), 0.0).label("cost_usd"),
    )
    .where(IN_A_BATCH)
    .group_by(jobs.c.state)
    .order_by(jobs.c.state)
)
_CLOSED: Final = select(batches.c.batch_id).where(batches.c.closed_at.is_not(None))


class Batches(SqlPart):
    """Counts batches, and closes each once."""

    def file_batch_part(self, request: BatchRequest, jobs: int) -> None:
        batch = {
            "batch_id": request.batch_id,
            "caller": request.caller,
            "parts": request.parts,
            "filed_at": now(),
        }
        with self._writing() as connection:
            self._insert_new(connection, batches, batch)
            part = {"batch_id": request.batch_id, "part": request.part, "jobs": jobs}
            self._insert_new(connection, batch_parts, part)

    def batch(self, batch_id: str) -> BatchSummary | None:
        with self._reading() as connection:
            return _summary(connection, batch_id)

    def close_batch(self, batch_id: str, publish: Callable[[BatchSummary], None]) -> bool:
        with self._reading() as connection:
            if not _is_over(connection, batch_id):
                return False
        with self._publishing() as connection:
            connection.execute(select(batches.c.batch_id).where(batches.c.batch_id == batch_id).with_for_update())
            summary = _summary(connection, batch_id) if _is_over(connection, batch_id) else None
            if summary is None:
                return False
            publish(summary.model_copy(update={"closed": True}))
            connection.execute(update(batches).where(batches.c.batch_id == batch_id).values(closed_at=now()))
            return True


def _is_over(connection: Connection, batch_id: str) -> bool:
    """Whether a batch that is not closed yet has all its parts, and none of its jobs is open."""
    filed = select(func.count()).where(batch_parts.c.batch_id == batch_id).scalar_subquery()
    is_open = select(jobs.c.state).where(jobs.c.batch_id == batch_id, IN_A_BATCH, OPEN)
    over = select(batches.c.batch_id).where(
        batches.c.batch_id == batch_id, batches.c.closed_at.is_(None), filed >= batches.c.parts, ~is_open.exists()
    )
    return connection.execute(over).first() is not None


def _caller(connection: Connection, batch_id: str) -> str | None:
    """Who filed the batch, or else whose its oldest job is; None where nothing of it is known."""
    filed = select(batches.c.caller).where(batches.c.batch_id == batch_id)
    first = (jobs.c.created_at, jobs.c.job_id)
    oldest = select(jobs.c.caller).where(jobs.c.batch_id == batch_id).order_by(*first).limit(1)
    return connection.execute(filed).scalar() or connection.execute(oldest).scalar()


def _summary(connection: Connection, batch_id: str) -> BatchSummary | None:
    caller = _caller(connection, batch_id)
    if caller is None:
        return None
    rows = connection.execute(_COUNTS.where(jobs.c.batch_id == batch_id)).all()
    by_state = {row.state: row.jobs for row in rows}
    scored = [row for row in rows if row.scored]
    total = sum(by_state.values())
    ended = sum(by_state.get(state, 0) for state in ENDS.values())
    return BatchSummary(
        batch_id=batch_id,
        caller=caller,
        jobs=total,
        by_state=by_state,
        fraction=ended / total if total else 1.0,
        mean_score=sum(row.scores for row in scored) / sum(row.scored for row in scored) if scored else None,
        lowest_score=min((row.lowest for row in scored), default=None),
        passed=sum(row.passed for row in rows),
        seconds=sum(row.seconds for row in rows),
        cost_usd=sum(row.cost_usd for row in rows),
        closed=connection.execute(_CLOSED.where(batches.c.batch_id == batch_id)).first() is not None,
        failures=_failures(connection, batch_id),
    )


def _failures(connection: Connection, batch_id: str) -> tuple[str, ...]:
    query = (
        select(jobs.c.job_id, jobs.c.state, jobs.c.error)
        .where(jobs.c.batch_id == batch_id, FAILED)
        .order_by(jobs.c.created_at, jobs.c.job_id)
        .limit(FAILURES_SHOWN)
    )
    return tuple(_in_words(*row) for row in connection.execute(query))


def _in_words(job_id: str, state: str, error: str | None) -> str:
    reason = f": {ErrorAccount.from_json(error).message}" if error else ""
    return f"{job_id} {state}{reason}"
