"""Bring a data folder's record store to the schema of this release, and open it."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edif.core import errors
from edif.core.errors import SetupError
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
            errors.DATA_NEWER, f"The data folder was written by a newer release of eDIF (schema {current})."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def open_store(data: Path) -> SqlRecordStore:
    """Open the record store in the data folder, creating or migrating it.

    Raises:
        SetupError: the folder cannot be written, or comes from a newer release.
    """
    return await asyncio.to_thread(_open, data)


def _open(data: Path) -> SqlRecordStore:
    database = Sqlite(data / DATABASE_NAME)
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = database.engine(writing=True)
        try:
            with engine.begin() as connection:
                upgrade(connection)
        finally:
            engine.dispose()
    except (OSError, sa.exc.OperationalError) as error:
        raise SetupError(
            errors.DATA_UNWRITABLE, f"The data folder {str(data)!r} cannot be used: {_cause(error)}."
        ) from error
    except sa.exc.DatabaseError as error:
        raise SetupError(
            errors.DATA_UNWRITABLE,
            f"The record store in {str(data)!r} cannot be read: {_cause(error)}.",
            "Restore it from a backup, or choose another folder with --data.",
        ) from error
    return SqlRecordStore(database)


def _cause(error: Exception) -> str:
    origin = getattr(error, "orig", None)
    return str(origin or error).strip().rstrip(".")
