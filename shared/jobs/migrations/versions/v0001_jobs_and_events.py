"""Jobs and their events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("batch_id", sa.String(64)),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column(
            "idempotency_key", sa.Text, comment="as a JSON string: PostgreSQL's text cannot hold every character"
        ),
        sa.Column("subject", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request", sa.Text, comment="JSON of a JobRequest"),
        sa.Column("brief", sa.Text, comment="JSON of a Brief"),
        sa.Column("first_message", sa.Text, comment="JSON of a StepMessage"),
        sa.Column("steps", sa.Text, nullable=False, comment="JSON list of StepState"),
        sa.Column("error", sa.Text, comment="JSON of an ErrorAccount"),
        sa.Column("result", sa.Text, comment="JSON of a JobResult"),
        sa.UniqueConstraint("caller", "idempotency_key", name="uq_jobs_caller_idempotency_key"),
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
    op.create_index("ix_jobs_subject", "jobs", ["subject", "created_at"])
    op.create_index("ix_jobs_batch_id", "jobs", ["batch_id", "created_at"])
    op.create_index("ix_jobs_state", "jobs", ["state", "created_at"])
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False, comment="JSON of an Event"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_events_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_events_job_id", "events", ["job_id", "seq"])


def downgrade() -> None:
    """Drop both tables and everything in them."""
    op.drop_table("events")
    op.drop_table("jobs")
