"""Groups and weights, quotas, usage by day, the audit log, and a count of changes to people."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_GENESIS = "0" * 64


def upgrade() -> None:
    op.add_column("users", sa.Column("id", sa.String(40), nullable=False, server_default=sa.text("''")))
    op.add_column("users", sa.Column("group_name", sa.String(100)))
    op.add_column("users", sa.Column("weight", sa.Double, nullable=False, server_default="1"))
    op.add_column("users", sa.Column("priority", sa.String(20)))
    connection = op.get_bind()
    users = sa.table("users", sa.column("name"), sa.column("id"))
    for (name,) in connection.execute(sa.select(users.c.name)).all():
        connection.execute(sa.update(users).where(users.c.name == name).values(id="u" + secrets.token_hex(6)))
    op.create_index("ix_users_id", "users", ["id"])
    op.create_table(
        "groups",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("priority", sa.String(20), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_groups"),
    )
    op.create_table(
        "quotas",
        sa.Column("scope", sa.String(20), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("measure", sa.String(40), nullable=False),
        sa.Column("amount", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("scope", "name", "measure", name="pk_quotas"),
    )
    op.create_table(
        "usage",
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("group_name", sa.String(100), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("result_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "user", "group_name", "model", name="pk_usage"),
    )
    op.create_index("ix_usage_user", "usage", ["user"])
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_index("ix_audit_actor", "audit", ["actor"])
    heads = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(heads, [{"id": 1, "number": 0, "hash": _GENESIS}])
    changes = op.create_table(
        "changes",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_changes"),
    )
    op.bulk_insert(changes, [{"name": "people", "number": 0}])


def downgrade() -> None:
    for table in ("changes", "audit_head", "audit", "usage", "quotas", "groups"):
        op.drop_table(table)
    op.drop_index("ix_users_id", "users")
    for column in ("priority", "weight", "group_name", "id"):
        op.drop_column("users", column)
