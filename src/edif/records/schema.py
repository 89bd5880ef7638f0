"""The tables, as SQLAlchemy Core sees them. ``migrations/`` creates them; a test compares the two."""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("email", sa.String(320)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("id", sa.String(40), nullable=False, server_default=sa.text("''"), index=True),
    sa.Column("group_name", sa.String(100)),
    sa.Column("weight", sa.Double, nullable=False, server_default="1"),
    sa.Column("priority", sa.String(20)),
)

groups = sa.Table(
    "groups",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("priority", sa.String(20), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("scope", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("measure", sa.String(40), primary_key=True),
    sa.Column("amount", sa.Double, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(20), primary_key=True),
    sa.Column("user", sa.String(100), nullable=False, index=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("owner", sa.String(100), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("model_key", sa.Text, nullable=False),
    sa.Column("client_key", sa.String(100)),
    sa.Column("compress", sa.Boolean, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("payload_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("ended_at", sa.Double),
    sa.Column("error_code", sa.String(60)),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("meta", sa.Text, nullable=False, default="{}"),
    sa.Column("result_bytes", sa.BigInteger),
    sa.Column("result_sha256", sa.String(64)),
    sa.Column("blobs_deleted", sa.Boolean, nullable=False, default=False),
    sa.Column("cancel_asked", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("extras", sa.Text, nullable=False, server_default="{}"),
    sa.Column("kept_bytes", sa.BigInteger),
    sa.Column("revocations", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("owner", "client_key"),
    sa.Index("ix_jobs_state_created_at", "state", "created_at"),
    sa.Index("ix_jobs_owner_created_at", "owner", "created_at"),
    sa.Index("ix_jobs_ended_at", "ended_at"),
)

stored_results = sa.and_(jobs.c.blobs_deleted.is_(False), jobs.c.result_bytes.is_not(None))
"""Which jobs have a result in the blob store. Written otherwise, a statement does not get the index."""
sa.Index(
    "ix_jobs_stored",
    jobs.c.owner,
    jobs.c.result_bytes,
    jobs.c.kept_bytes,
    sqlite_where=stored_results,
    postgresql_where=stored_results,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("agent", sa.String(40), nullable=False),
    sa.Column("replica", sa.String(40), nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("outcome", sa.String(20)),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("user", sa.String(100), primary_key=True, index=True),
    sa.Column("group_name", sa.String(100), primary_key=True),  # empty without a group: a key cannot be null
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("jobs", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("result_bytes", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(100), nullable=False, index=True),
    sa.Column("action", sa.String(60), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# One row each. It is what writers of the log wait for, one after the other.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# What an operator has switched on.
switches = sa.Table("switches", metadata, sa.Column("name", sa.String(40), primary_key=True))

# How often something changed, so that a gateway that looks every half second reads one row.
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)
