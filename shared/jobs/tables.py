"""The tables of the job store. A change here needs a migration beside it; a test compares the two."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    UniqueConstraint,
    text,
)

IDENTIFIER = String(64)
COUNTER = BigInteger().with_variant(Integer, "sqlite")

OPEN = text("state IN ('accepted', 'running')")
WAITING = text("state = 'accepted' AND released_at IS NULL")
IN_FLIGHT = text("state IN ('accepted', 'running') AND released_at IS NOT NULL")
ENDED = text("state NOT IN ('accepted', 'running')")
FAILED = text("state IN ('refused', 'dead', 'cancelled', 'expired')")
IN_A_BATCH = text("batch_id IS NOT NULL")
HAS_A_TURN = text("waiting_since IS NOT NULL")
"""What partial indices hold. A query must say the very same to be served by one, so both take it from here."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant, kept in UTC to the microsecond. SQLite has no time zones of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def partial_index(name: str, holds: TextClause, *columns: str) -> Index:
    """An index over the rows of which `holds` is true."""
    return Index(name, *columns, sqlite_where=holds, postgresql_where=holds)


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", IDENTIFIER, primary_key=True),
    Column("batch_id", IDENTIFIER),
    Column("caller", IDENTIFIER, nullable=False),
    Column("lane", String(16), comment="NULL where there is no first message: such a job never waits"),
    Column("idempotency_key", Text, comment="as a JSON string: PostgreSQL's text cannot hold every character"),
    Column("subject", IDENTIFIER),
    Column("state", String(16), nullable=False),
    Column("run", Integer, nullable=False, server_default="0"),
    Column("released_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("request", Text, comment="JSON of a JobRequest"),
    Column("brief", Text, comment="JSON of a Brief"),
    Column("first_message", Text, comment="JSON of a StepMessage"),
    Column("steps", Text, nullable=False, comment="JSON list of StepState"),
    Column("attempts", Text, comment="JSON list of Attempt; NULL where none has failed"),
    Column("error", Text, comment="JSON of an ErrorAccount"),
    Column("result", Text, comment="JSON of a JobResult"),
    Column("score", Float),
    Column("passed", Boolean),
    Column("seconds", Float),
    Column("cost_usd", Float),
    UniqueConstraint("caller", "idempotency_key", name="uq_jobs_caller_idempotency_key"),
    Index("ix_jobs_created_at", "created_at"),
    Index("ix_jobs_subject", "subject", "created_at"),
    Index("ix_jobs_batch_id", "batch_id", "created_at"),
    partial_index("ix_jobs_open", OPEN, "created_at", "job_id"),
    partial_index("ix_jobs_waiting", WAITING, "lane", "caller", "created_at", "job_id", "state", "released_at"),
    partial_index("ix_jobs_in_flight", IN_FLIGHT, "lane"),
    partial_index("ix_jobs_ended", ENDED, "updated_at"),
    partial_index("ix_jobs_failed", FAILED, "batch_id", "created_at", "job_id"),
    partial_index("ix_jobs_batch_counts", IN_A_BATCH, "batch_id", "state", "score", "passed", "seconds", "cost_usd"),
)

events = Table(
    "events",
    metadata,
    Column("seq", COUNTER, primary_key=True, autoincrement=True),
    Column("event_id", IDENTIFIER, nullable=False),
    Column(
        "job_id", IDENTIFIER, ForeignKey("jobs.job_id", name="fk_events_job_id", ondelete="CASCADE"), nullable=False
    ),
    Column("document", Text, nullable=False, comment="JSON of an Event"),
    UniqueConstraint("event_id", name="uq_events_event_id"),
    Index("ix_events_job_id", "job_id", "seq"),
)

turns = Table(
    "turns",
    metadata,
    Column("lane", String(16), primary_key=True),
    Column("caller", IDENTIFIER, primary_key=True),
    Column("released", COUNTER, nullable=False, comment="the number of the lane's release that was the caller's last"),
    Column("waiting_since", UtcDateTime, comment="NULL where none of the caller's jobs is known to wait"),
    Index("ix_turns_released", "lane", "released"),
    partial_index("ix_turns_next", HAS_A_TURN, "lane", "released", "waiting_since", "caller"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("letter_id", IDENTIFIER, primary_key=True),
    Column("stage", Text, nullable=False),
    Column("step", IDENTIFIER),
    Column("kind", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("fingerprint", IDENTIFIER, nullable=False),
    Column("job_id", IDENTIFIER),
    Column("batch_id", IDENTIFIER),
    Column("caller", IDENTIFIER),
    Column("subject", IDENTIFIER),
    Column("run", Integer, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    Column("raw", Boolean, nullable=False, comment="whether it holds a body that could not be read"),
    Column("state", String(16), nullable=False),
    Column("settled_at", UtcDateTime),
    Column("settled_by", Text, comment="as a JSON string"),
    Column("document", Text, nullable=False, comment="JSON of a DeadLetter"),
    Index("ix_dead_letters_state", "state", "died_at", "letter_id"),
    Index("ix_dead_letters_cause", "state", "stage", "kind", "error_type", "fingerprint", "died_at", "letter_id"),
    Index("ix_dead_letters_fingerprint", "fingerprint", "died_at"),
    Index("ix_dead_letters_job_id", "job_id"),
    Index("ix_dead_letters_batch_id", "batch_id"),
    Index("ix_dead_letters_subject", "subject"),
    Index("ix_dead_letters_died_at", "died_at", "letter_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("worker", Text, primary_key=True, comment="as a JSON string"),
    Column("at", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("heard_at", UtcDateTime, nullable=False, comment="by the clock of whoever wrote it down"),
    Column("document", Text, nullable=False, comment="JSON of a Beat"),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", IDENTIFIER, primary_key=True),
    Column("caller", IDENTIFIER, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("filed_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
)

batch_parts = Table(
    "batch_parts",
    metadata,
    Column(
        "batch_id",
        IDENTIFIER,
        ForeignKey("batches.batch_id", name="fk_batch_parts_batch_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("jobs", Integer, nullable=False),
)

erased_subjects = Table(
    "erased_subjects",
    metadata,
    Column("digest", String(64), primary_key=True, comment="SHA-256 of the subject's id"),
    Column("erased_at", UtcDateTime, nullable=False),
)
