"""An index on jobs that still store a result: counting them reads these, and not every job there ever was."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index(
        "ix_jobs_stored",
        "jobs",
        ["owner", "result_bytes"],
        sqlite_where=sa.text("blobs_deleted IS 0 AND result_bytes IS NOT NULL"),
        postgresql_where=sa.text("blobs_deleted IS false AND result_bytes IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_stored", "jobs")
