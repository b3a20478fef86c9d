"""The attempts of a job at its picture that did not pass, where its recipe has a gate."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No job has made more than one."""
    op.add_column("jobs", sa.Column("attempts", sa.Text(), comment="JSON list of Attempt; NULL where none has failed"))


def downgrade() -> None:
    """Forget all but what the results say."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("attempts")
