"""Copies of a record store in a folder, taken while it is in use."""

import sqlite3
from contextlib import closing
from pathlib import Path


def copy_store(store: Path, copy: Path) -> None:
    """Write the state of one moment to a new file. Who writes to the store meanwhile, waits or is not in it."""
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)  # all pages in one step


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
