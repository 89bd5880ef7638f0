"""SQLite in WAL mode: one file in the data folder."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from edif.core import errors
from edif.core.errors import SetupError, StoreUnavailable
from edif.records.database import READERS, Doing, first_line

DATABASE_NAME = "records.sqlite"

_WAL_SWITCH_S = 10.0
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)  # the second: none for the index of the log


class Sqlite:
    """See :class:`edif.records.database.Database`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def engine(self, *, writing: bool) -> sa.Engine:
        return open_engine(self._path, writing=writing)

    def told(self, error: Exception, doing: Doing) -> Exception:
        if not isinstance(error, OperationalError):
            return error
        if doing is Doing.READING:
            sentence = f"The fabric's record store cannot be read: {error.orig}."
        else:  # what was not committed is rolled back: nothing is ever in doubt
            sentence = f"The fabric's record store cannot write: {error.orig}; nothing was recorded."
        unavailable = StoreUnavailable(errors.STORAGE_FULL, sentence)
        unavailable.__cause__ = error
        return unavailable

    def refusal(self, error: Exception) -> SetupError:
        folder = str(self._path.parent)
        if isinstance(error, OperationalError) and getattr(error.orig, "sqlite_errorcode", 0) in _FULL:
            return SetupError(
                errors.STORAGE_FULL, f"The disk of the data folder {folder!r} is full.", "Free space on it."
            )
        if isinstance(error, OSError | OperationalError):
            return SetupError(
                errors.DATA_UNWRITABLE, f"The data folder {folder!r} cannot be used: {first_line(error)}."
            )
        return SetupError(
            errors.DATA_UNWRITABLE,
            f"The record store in {folder!r} cannot be read: {first_line(error)}.",
            "Restore it from a backup, or choose another folder with --data.",
        )


def open_engine(path: Path, *, writing: bool) -> sa.Engine:
    """An engine on the SQLite file at ``path``, with the pragmas that durability and concurrency ask for.

    A writing engine begins every transaction with the write lock, so that none fails half way for another
    process's sake; a reading one never takes it.
    """
    engine = sa.create_engine(
        f"sqlite:///{path}", pool_size=READERS, connect_args={"check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def _settle(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        # What was erased is overwritten in the file; not every build of SQLite does so by itself, and FAST leaves free pages.
        for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        _use_wal(connection)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _use_wal(connection: Any) -> None:
    # A fresh file is switched by whoever is first; the others are told "locked" at once, not after the timeout.
    deadline = time.monotonic() + _WAL_SWITCH_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
