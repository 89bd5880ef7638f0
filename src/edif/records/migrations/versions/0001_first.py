"""The first schema: users, keys, jobs, attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("email", sa.String(320)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(20), nullable=False),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index("ix_api_keys_user", "api_keys", ["user"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("model_key", sa.Text, nullable=False),
        sa.Column("client_key", sa.String(100)),
        sa.Column("compress", sa.Boolean, nullable=False),
        sa.Column("env", sa.Text, nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("error_code", sa.String(60)),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("meta", sa.Text, nullable=False),
        sa.Column("result_bytes", sa.BigInteger),
        sa.Column("result_sha256", sa.String(64)),
        sa.Column("blobs_deleted", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("owner", "client_key", name="uq_jobs_owner_client_key"),
    )
    op.create_index("ix_jobs_state_created_at", "jobs", ["state", "created_at"])
    op.create_index("ix_jobs_owner_created_at", "jobs", ["owner", "created_at"])
    op.create_index("ix_jobs_ended_at", "jobs", ["ended_at"])
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(40), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("agent", sa.String(40), nullable=False),
        sa.Column("replica", sa.String(40), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.PrimaryKeyConstraint("job", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="fk_attempts_job"),
    )


def downgrade() -> None:
    for table in ("attempts", "jobs", "api_keys", "users"):
        op.drop_table(table)
