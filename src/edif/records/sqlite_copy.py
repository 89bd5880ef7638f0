"""Copies of a record store in a folder, taken while it is in use."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_WAIT_S = 60.0


def copy_store(store: Path, copy: Path, *, meanwhile: Callable[[], None]) -> None:
    """Write the state of one moment to a new file. ``meanwhile`` is called in that moment: nothing is recorded until it returns."""
    with (
        closing(sqlite3.connect(store, timeout=_WAIT_S, isolation_level=None)) as held,
        closing(sqlite3.connect(store, isolation_level=None)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        held.execute("BEGIN IMMEDIATE")  # others wait with their writes
        source.execute("BEGIN")
        source.execute(
            "SELECT count(*) FROM sqlite_schema"
        ).fetchone()  # only now its view of the store is fixed
        meanwhile()
        held.execute("ROLLBACK")
        source.backup(target)  # that view, all pages in one step


def check_store(path: Path) -> None:
    """
    Raises:
        ValueError: the file is damaged, or no store.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"its record store cannot be read: {error}") from error
    if answer != "ok":
        raise ValueError(f"its record store is damaged: {answer}")
