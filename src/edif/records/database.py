"""What the record store needs to know of a database system; there is one file for each of them."""

from enum import Enum, auto
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from edif.core.errors import SetupError

READERS = 2


class Doing(Enum):
    """What the database was asked to do when it failed."""

    READING = auto()
    WRITING = auto()
    COMMITTING = auto()


class Database(Protocol):
    """One database, wherever it is."""

    def engine(self, *, writing: bool) -> sa.Engine:
        """A new engine: of the one thread that writes, or of up to ``READERS`` threads that read.

        A writing engine begins every transaction with the one lock for writers, so that they come one after another.
        """
        ...

    def told(self, error: Exception, doing: Doing) -> Exception:
        """What the caller of a method of the store is told, in place of this error of the driver."""
        ...

    def refusal(self, error: Exception) -> SetupError:
        """Why the store cannot be opened, for the operator."""
        ...


def cut_off(error: Exception) -> bool:
    """Whether the connection is gone, and with it whatever was not committed."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def first_line(error: Exception) -> str:
    """What the driver said, without SQLAlchemy's additions."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.partition("\n")[0].rstrip(".")
