"""What clients of eDIF's own ask for, what jobs keep on the fabric, and how often links to their results were revoked."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("extras", sa.Text, nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("kept_bytes", sa.BigInteger))
    op.add_column("jobs", sa.Column("revocations", sa.Integer, nullable=False, server_default="0"))
    _index_stored("owner", "result_bytes", "kept_bytes")


def downgrade() -> None:
    _index_stored("owner", "result_bytes")
    for column in ("revocations", "kept_bytes", "extras"):
        op.drop_column("jobs", column)


def _index_stored(*columns: str) -> None:
    op.drop_index("ix_jobs_stored", "jobs")
    op.create_index(
        "ix_jobs_stored",
        "jobs",
        list(columns),
        sqlite_where=sa.text("blobs_deleted IS 0 AND result_bytes IS NOT NULL"),
        postgresql_where=sa.text("blobs_deleted IS false AND result_bytes IS NOT NULL"),
    )
