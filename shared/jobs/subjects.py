"""Erasing a subject, and rows that are past their time, in SQL."""

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, delete, exists, func, or_, select

from shared.contracts.base import Instant, now
from shared.jobs.scrub import scrub
from shared.jobs.session import SqlPart
from shared.jobs.tables import ENDED, batches, dead_letters, erased_subjects, events, jobs, turns

CHUNK = 500
"""Jobs that one transaction of `erase_older` removes, so that nobody waits long for the lock."""


class Subjects(SqlPart):
    """Remembers who was erased, and removes rows for good."""

    def entomb(self, subject: str) -> None:
        with self._writing() as connection:
            self._insert_new(connection, erased_subjects, {"digest": _digest(subject), "erased_at": now()})

    def is_entombed(self, subject: str) -> bool:
        with self._reading() as connection:
            return is_entombed(connection, subject)

    def exhume(self, subject: str) -> None:
        with self._writing() as connection:
            connection.execute(delete(erased_subjects).where(erased_subjects.c.digest == _digest(subject)))

    def erase_subject(self, subject: str) -> Mapping[str, int]:
        with self._writing() as connection:
            its_jobs = jobs.c.job_id.in_(select(jobs.c.job_id).where(jobs.c.subject == subject))
            told_of = dead_letters.c.job_id.in_(select(jobs.c.job_id).where(jobs.c.subject == subject))
            spoken_of = or_(dead_letters.c.subject == subject, told_of, _names_in_its_body(connection, subject))
            removed = _remove(connection, its_jobs, spoken_of)
        scrub(self._engine, self._name, removed=any(removed.values()))
        return removed

    def erase_older(self, than: Instant) -> Mapping[str, int]:
        removed = {"jobs": 0, "events": 0, "letters": 0}
        over = select(jobs.c.job_id).where(ENDED, jobs.c.updated_at < than).order_by(jobs.c.updated_at).limit(CHUNK)
        while True:
            with self._writing() as connection:
                ended = connection.execute(over).scalars().all()
                counted = _remove(connection, jobs.c.job_id.in_(ended), dead_letters.c.job_id.in_(ended))
            removed = {name: removed[name] + counted[name] for name in removed}
            if len(ended) < CHUNK:
                break
        with self._writing() as connection:
            removed["letters"] += _remove_what_nothing_belongs_to(connection, than)
        return removed


def is_entombed(connection: Connection, subject: str) -> bool:
    """Whether the subject was erased."""
    query = select(erased_subjects.c.digest).where(erased_subjects.c.digest == _digest(subject))
    return connection.execute(query).first() is not None


def _remove(connection: Connection, which: ColumnElement[bool], letters: ColumnElement[bool]) -> dict[str, int]:
    """Letters go first: which they are may hang on the jobs."""
    doomed = select(jobs.c.job_id).where(which)
    return {
        "letters": connection.execute(delete(dead_letters).where(letters)).rowcount,
        "events": connection.execute(delete(events).where(events.c.job_id.in_(doomed))).rowcount,
        "jobs": connection.execute(delete(jobs).where(which)).rowcount,
    }


def _remove_what_nothing_belongs_to(connection: Connection, than: Instant) -> int:
    """Letters, batches and turns of before that no job stands for."""
    its_job = exists().where(jobs.c.job_id == dead_letters.c.job_id)
    letters = connection.execute(delete(dead_letters).where(dead_letters.c.died_at < than, ~its_job)).rowcount
    in_it = exists().where(jobs.c.batch_id == batches.c.batch_id)
    connection.execute(delete(batches).where(batches.c.filed_at < than, ~in_it))
    of_caller = exists().where(jobs.c.caller == turns.c.caller)
    connection.execute(delete(turns).where(turns.c.waiting_since.is_(None), ~of_caller))
    return letters


def _names_in_its_body(connection: Connection, subject: str) -> ColumnElement[bool]:
    """A letter whose body could not be read, and holds the subject's id as a JSON string."""
    position = func.instr if connection.dialect.name == "sqlite" else func.strpos
    within_a_body = json.dumps(json.dumps(subject))[1:-1]
    return dead_letters.c.raw & (position(dead_letters.c.document, within_a_body) > 0)


def _digest(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()
