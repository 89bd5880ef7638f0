"""What an operator has switched on, such as a drain, stays so over restarts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "switches",
        sa.Column("name", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_switches"),
    )


def downgrade() -> None:
    op.drop_table("switches")
