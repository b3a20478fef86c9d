"""The two tables of the job store. A change here needs a migration beside it; a test compares the two."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

IDENTIFIER = String(64)


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


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", IDENTIFIER, primary_key=True),
    Column("batch_id", IDENTIFIER),
    Column("caller", IDENTIFIER, nullable=False),
    Column("idempotency_key", Text, comment="as a JSON string: PostgreSQL's text cannot hold every character"),
    Column("subject", IDENTIFIER),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("request", Text, comment="JSON of a JobRequest"),
    Column("brief", Text, comment="JSON of a Brief"),
    Column("first_message", Text, comment="JSON of a StepMessage"),
    Column("steps", Text, nullable=False, comment="JSON list of StepState"),
    Column("error", Text, comment="JSON of an ErrorAccount"),
    Column("result", Text, comment="JSON of a JobResult"),
    UniqueConstraint("caller", "idempotency_key", name="uq_jobs_caller_idempotency_key"),
    Index("ix_jobs_created_at", "created_at"),
    Index("ix_jobs_subject", "subject", "created_at"),
    Index("ix_jobs_batch_id", "batch_id", "created_at"),
    Index("ix_jobs_state", "state", "created_at"),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", IDENTIFIER, nullable=False),
    Column(
        "job_id", IDENTIFIER, ForeignKey("jobs.job_id", name="fk_events_job_id", ondelete="CASCADE"), nullable=False
    ),
    Column("document", Text, nullable=False, comment="JSON of an Event"),
    UniqueConstraint("event_id", name="uq_events_event_id"),
    Index("ix_events_job_id", "job_id", "seq"),
)
