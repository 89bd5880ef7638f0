"""What the record store needs to know of a database system; there is one file for each of them."""

from typing import Protocol

import sqlalchemy as sa

READERS = 2


class Database(Protocol):
    """One database, wherever it is."""

    def engine(self, *, writing: bool) -> sa.Engine:
        """A new engine: of the thread that writes, or of up to ``READERS`` threads that read."""
        ...

    def told(self, error: Exception) -> Exception:
        """What the caller of a method of the store is told, in place of this error of the driver."""
        ...
