"""Dead letters, in SQL."""

import json
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select, tuple_, update

from shared.contracts.base import now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import InvalidInput
from shared.contracts.step import StepMessage
from shared.jobs.journal import replayed
from shared.jobs.port import FiledLetter, Job, LetterFilter, LetterGroup, LetterState
from shared.jobs.rows import job_of, replay_of
from shared.jobs.session import SqlPart
from shared.jobs.subjects import is_entombed
from shared.jobs.tables import dead_letters, jobs

COLUMN_LIMIT: Final = 200
"""Characters of the words that letters are found by."""


class Letters(SqlPart):
    """Files dead letters, groups them by cause, and settles each once."""

    def file_letter(self, letter: DeadLetter) -> bool:
        with self._writing() as connection:
            if letter.subject is not None and is_entombed(connection, letter.subject):
                return False
            return self._insert_new(connection, dead_letters, _row_of(letter))

    def letter_groups(self, wanted: LetterFilter) -> tuple[LetterGroup, ...]:
        cause = [dead_letters.c[name] for name in ("stage", "kind", "error_type", "fingerprint")]
        groups = (
            select(
                *cause,
                func.count().label("count"),
                func.min(dead_letters.c.died_at).label("oldest"),
                func.max(dead_letters.c.died_at).label("newest"),
                func.min(dead_letters.c.letter_id).label("example"),
            )
            .where(*_agrees(wanted))
            .group_by(*cause)
            .subquery()
        )
        query = (
            select(groups, dead_letters.c.document)
            .join(dead_letters, dead_letters.c.letter_id == groups.c.example)
            .order_by(groups.c.count.desc(), groups.c.oldest, groups.c.stage, groups.c.fingerprint, groups.c.example)
        )
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(_group_of(row) for row in rows)

    def letters(
        self, wanted: LetterFilter, limit: int = 100, after: DeadLetter | None = None
    ) -> tuple[FiledLetter, ...]:
        if limit < 1:
            raise InvalidInput("limit", f"{limit} dead letters were asked for", "Ask for at least one.")
        query = (
            select(dead_letters)
            .where(*_agrees(wanted))
            .order_by(dead_letters.c.died_at, dead_letters.c.letter_id)
            .limit(limit)
        )
        if after is not None:
            age = tuple_(dead_letters.c.died_at, dead_letters.c.letter_id)
            query = query.where(age > (after.died_at, after.letter_id))
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(_letter_of(row) for row in rows)

    def settle_letter(
        self, letter_id: str, state: LetterState, by: str, act: Callable[[FiledLetter], StepMessage | None]
    ) -> FiledLetter | None:
        if state == "open":
            raise ValueError("a letter is settled as `replayed` or `discarded`")
        with self._publishing() as connection:
            same = dead_letters.c.letter_id == letter_id
            open_one = select(dead_letters).where(same, dead_letters.c.state == "open").with_for_update()
            row = connection.execute(open_one).mappings().one_or_none()
            if row is None:
                return None
            letter = _letter_of(row)
            job = _locked_job(connection, letter.letter.job_id)
            message = act(letter)
            if job is not None and message is not None:
                _open_again(connection, job, message)
            settled = letter.model_copy(update={"state": state, "settled_at": now(), "settled_by": by})
            connection.execute(
                update(dead_letters)
                .where(same)
                .values(state=state, settled_at=settled.settled_at, settled_by=json.dumps(by))
            )
            return settled


def _locked_job(connection: Connection, job_id: str | None) -> Job | None:
    """The letter's job, held so that the journal comes to the replay's events only after the replay."""
    locked = select(jobs).where(jobs.c.job_id == job_id).with_for_update()
    row = connection.execute(locked).mappings().one_or_none()
    return None if row is None else job_of(row)


def _open_again(connection: Connection, job: Job, message: StepMessage) -> None:
    after = replayed(job, message)
    connection.execute(update(jobs).where(jobs.c.job_id == job.job_id).values(replay_of(after)))


def _row_of(letter: DeadLetter) -> dict[str, Any]:
    return {
        "letter_id": letter.letter_id,
        "stage": _column(_stage_of(letter)),
        "step": letter.step,
        "kind": _column(letter.error.kind),
        "error_type": _column(letter.error.type),
        "fingerprint": letter.fingerprint,
        "job_id": letter.job_id,
        "batch_id": letter.batch_id,
        "caller": letter.caller,
        "subject": letter.subject,
        "run": letter.run,
        "died_at": letter.died_at,
        "raw": letter.body is not None,
        "state": "open",
        "document": letter.model_dump_json(),
    }


def _letter_of(row: RowMapping) -> FiledLetter:
    by = row["settled_by"]
    return FiledLetter(
        letter=DeadLetter.from_json(row["document"]),
        state=row["state"],
        settled_at=row["settled_at"],
        settled_by=None if by is None else json.loads(by),
    )


def _group_of(row: RowMapping) -> LetterGroup:
    example = DeadLetter.from_json(row["document"])
    told = {name: row[name] for name in LetterGroup.model_fields if name != "example_message"}
    return LetterGroup(**told, example_message=example.error.message)


def _agrees(wanted: LetterFilter) -> list[ColumnElement[bool]]:
    return [dead_letters.c[name] == _column(value) for name, value in wanted if value is not None]


def _stage_of(letter: DeadLetter) -> str:
    """The stage whose step it is, or else the one its queue is named after: `doctorgen.<stage>.…`."""
    if letter.message is not None:
        return letter.message.step.stage
    _, _, after = letter.queue.partition(".")
    return after.partition(".")[0] or letter.queue


def _column(words: str) -> str:
    """PostgreSQL's text cannot hold NUL, and its indices no long words; the document keeps both."""
    return words.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:COLUMN_LIMIT]
