"""Releases and turns, dead letters, workers, batches and erased subjects."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OPEN = sa.text("state IN ('accepted', 'running')")
WAITING = sa.text("state = 'accepted' AND released_at IS NULL")
IN_FLIGHT = sa.text("state IN ('accepted', 'running') AND released_at IS NOT NULL")
ENDED = sa.text("state NOT IN ('accepted', 'running')")
FAILED = sa.text("state IN ('refused', 'dead', 'cancelled', 'expired')")
IN_A_BATCH = sa.text("batch_id IS NOT NULL")
HAS_A_TURN = sa.text("waiting_since IS NOT NULL")

COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
INSTANT = sa.DateTime(timezone=True)
CHUNK = 500

jobs = sa.table(
    "jobs",
    *(sa.column(name) for name in ("job_id", "state", "caller", "updated_at", "created_at", "first_message", "result")),
    *(sa.column(name) for name in ("lane", "released_at", "score", "passed", "seconds", "cost_usd")),
)


def upgrade() -> None:
    """Add what is new, then say of the jobs that stand what their documents say."""
    _add_to_jobs()
    _make_turns()
    _make_dead_letters()
    _make_the_rest()
    _fill_in()


def _add_to_jobs() -> None:
    for column in (
        sa.Column("lane", sa.String(16), comment="NULL where there is no first message: such a job never waits"),
        sa.Column("run", sa.Integer, nullable=False, server_default="0"),
        sa.Column("released_at", INSTANT),
        sa.Column("score", sa.Float),
        sa.Column("passed", sa.Boolean),
        sa.Column("seconds", sa.Float),
        sa.Column("cost_usd", sa.Float),
    ):
        op.add_column("jobs", column)
    op.drop_index("ix_jobs_state", "jobs")
    _index("ix_jobs_open", "jobs", ["created_at", "job_id"], OPEN)
    waiting = ["lane", "caller", "created_at", "job_id", "state", "released_at"]
    _index("ix_jobs_waiting", "jobs", waiting, WAITING)
    _index("ix_jobs_in_flight", "jobs", ["lane"], IN_FLIGHT)
    _index("ix_jobs_ended", "jobs", ["updated_at"], ENDED)
    _index("ix_jobs_failed", "jobs", ["batch_id", "created_at", "job_id"], FAILED)
    counted = ["batch_id", "state", "score", "passed", "seconds", "cost_usd"]
    _index("ix_jobs_batch_counts", "jobs", counted, IN_A_BATCH)


def _make_turns() -> None:
    op.create_table(
        "turns",
        sa.Column("lane", sa.String(16), primary_key=True),
        sa.Column("caller", sa.String(64), primary_key=True),
        sa.Column(
            "released", COUNTER, nullable=False, comment="the number of the lane's release that was the caller's last"
        ),
        sa.Column("waiting_since", INSTANT, comment="NULL where none of the caller's jobs is known to wait"),
    )
    op.create_index("ix_turns_released", "turns", ["lane", "released"])
    _index("ix_turns_next", "turns", ["lane", "released", "waiting_since", "caller"], HAS_A_TURN)


def _make_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("letter_id", sa.String(64), primary_key=True),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("step", sa.String(64)),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("error_type", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("batch_id", sa.String(64)),
        sa.Column("caller", sa.String(64)),
        sa.Column("subject", sa.String(64)),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("died_at", INSTANT, nullable=False),
        sa.Column("raw", sa.Boolean, nullable=False, comment="whether it holds a body that could not be read"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("settled_at", INSTANT),
        sa.Column("settled_by", sa.Text, comment="as a JSON string"),
        sa.Column("document", sa.Text, nullable=False, comment="JSON of a DeadLetter"),
    )
    cause = ["state", "stage", "kind", "error_type", "fingerprint", "died_at", "letter_id"]
    op.create_index("ix_dead_letters_state", "dead_letters", ["state", "died_at", "letter_id"])
    op.create_index("ix_dead_letters_cause", "dead_letters", cause)
    op.create_index("ix_dead_letters_fingerprint", "dead_letters", ["fingerprint", "died_at"])
    op.create_index("ix_dead_letters_job_id", "dead_letters", ["job_id"])
    op.create_index("ix_dead_letters_batch_id", "dead_letters", ["batch_id"])
    op.create_index("ix_dead_letters_subject", "dead_letters", ["subject"])
    op.create_index("ix_dead_letters_died_at", "dead_letters", ["died_at", "letter_id"])


def _make_the_rest() -> None:
    op.create_table(
        "workers",
        sa.Column("worker", sa.Text, primary_key=True, comment="as a JSON string"),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False, comment="JSON of a Beat"),
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.Column("filed_at", INSTANT, nullable=False),
        sa.Column("closed_at", INSTANT),
    )
    op.create_table(
        "batch_parts",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name="fk_batch_parts_batch_id", ondelete="CASCADE"),
    )
    op.create_table(
        "erased_subjects",
        sa.Column("digest", sa.String(64), primary_key=True, comment="SHA-256 of the subject's id"),
        sa.Column("erased_at", INSTANT, nullable=False),
    )


def _fill_in() -> None:
    """A job that runs was published, so it counts as released; one that does not waits, whether published or not."""
    connection = op.get_bind()
    for rows in _in_chunks(connection):
        for row in rows:
            connection.execute(jobs.update().where(jobs.c.job_id == row.job_id).values(_told_by(row)))
    connection.execute(
        jobs.update().where(jobs.c.state == "running").values(released_at=jobs.c.updated_at),
    )
    connection.execute(
        sa.text(
            "INSERT INTO turns (lane, caller, released, waiting_since)"
            " SELECT lane, caller, 0, min(created_at) FROM jobs"
            " WHERE state = 'accepted' AND lane IS NOT NULL GROUP BY lane, caller"
        )
    )


def _in_chunks(connection: sa.Connection) -> Iterator[Sequence[Any]]:
    last = ""
    while True:
        query = (
            sa.select(jobs.c.job_id, jobs.c.first_message, jobs.c.result)
            .where(jobs.c.job_id > last)
            .order_by(jobs.c.job_id)
            .limit(CHUNK)
        )
        rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        last = rows[-1].job_id


def _told_by(row: Any) -> dict[str, Any]:
    message = json.loads(row.first_message or "{}")
    result = json.loads(row.result or "{}")
    summary = result.get("summary", {})
    return {
        "lane": message.get("priority"),
        "score": summary.get("identity_score"),
        "passed": summary.get("passed"),
        "seconds": result.get("seconds"),
        "cost_usd": result.get("cost_usd"),
    }


def _index(name: str, table: str, columns: list[str], holds: sa.TextClause) -> None:
    op.create_index(name, table, columns, sqlite_where=holds, postgresql_where=holds)


def downgrade() -> None:
    """Drop what was added and everything in it."""
    for table in ("erased_subjects", "batch_parts", "batches", "workers", "dead_letters", "turns"):
        op.drop_table(table)
    for index in ("batch_counts", "failed", "ended", "in_flight", "waiting", "open"):
        op.drop_index(f"ix_jobs_{index}", "jobs")
    op.create_index("ix_jobs_state", "jobs", ["state", "created_at"])
    for column in ("cost_usd", "seconds", "passed", "score", "released_at", "run", "lane"):
        op.drop_column("jobs", column)
