"""Bring a record store to the schema of this release, and open it."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edif.core import errors
from edif.core.errors import LeadLost, SetupError, StoreUnavailable
from edif.records.database import Database
from edif.records.sql_store import SqlRecordStore
from edif.records.sqlite import DATABASE_NAME, Sqlite


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: sa.Connection) -> None:
    """Migrate up to this release's schema; a store that is already there is left alone.

    Raises:
        SetupError: the store was written by a newer release.
    """
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise SetupError(
            errors.DATA_NEWER, f"The record store was written by a newer release of eDIF (schema {current})."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def open_store(data: Path, url: str = "", *, leading: bool = False) -> SqlRecordStore:
    """Open the record store, creating or migrating it.

    Args:
        data: the data folder, which holds the store unless ``url`` names one.
        url: a PostgreSQL database, or empty.
        leading: whether to lead the fabric, with PostgreSQL; in a data folder its lock says who leads.

    Raises:
        SetupError: it cannot be used, or comes from a newer release.
        LeadLost: another gateway leads.
    """
    database = await asyncio.to_thread(_database, data, url, leading=leading)
    store = SqlRecordStore(database)
    try:
        await store.upgrade(upgrade)
    except LeadLost:
        await store.close()
        raise
    except (StoreUnavailable, sa.exc.DatabaseError) as error:
        await store.close()
        cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
        raise database.refusal(cause if isinstance(cause, Exception) else error) from error
    except BaseException:
        await store.close()
        raise
    return store


def _database(data: Path, url: str, *, leading: bool) -> Database:
    if url:
        from edif.records.postgres import Postgres  # an extra: who keeps to SQLite does not have the driver

        return Postgres(url, leading=leading)
    database = Sqlite(data / DATABASE_NAME)
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise database.refusal(error) from error
    return database
