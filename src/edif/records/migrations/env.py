"""Run by Alembic with the connection that ``records/migrate.py`` puts into its configuration."""

from alembic import context

from edif.records.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
