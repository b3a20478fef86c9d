"""When each worker was last heard, by our own clock: a worker whose clock is days off is not forgotten for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Start with no worker: each one that lives beats within seconds."""
    op.execute("DELETE FROM workers")
    with op.batch_alter_table("workers") as workers:
        workers.add_column(
            sa.Column(
                "heard_at",
                sa.DateTime(timezone=True),
                nullable=False,
                comment="by the clock of whoever wrote it down",
            )
        )


def downgrade() -> None:
    """Order workers by their own clocks again."""
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("heard_at")
