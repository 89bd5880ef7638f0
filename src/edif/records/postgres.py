"""PostgreSQL, by psycopg: a database that several gateways can reach, of which one leads.

The gateway that leads holds a lock of its session, and it holds it on the connection that writes: every
connection of the writing engine takes that lock before it is used. A gateway whose session has ended can
therefore not write without leading again, and what it had sent before is decided by then, because the server keeps
the lock until the session is over. No clock and no lease is in this.
"""

import secrets
import time
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DataError, InterfaceError, InternalError, OperationalError

from edif.core import errors
from edif.core.errors import LeadLost, Refused, SetupError, StoreUnavailable
from edif.records.database import READERS, Doing, cut_off, first_line

log = structlog.get_logger()

SCHEMES = ("postgresql://", "postgres://")

# Names of advisory locks: "eDIF" as a number, and a second one. They belong to the database.
_LEAD = (0x65444946, 1)
_WRITE = (0x65444946, 2)

_FORMER_TRIES = 30
_FORMER_PAUSE_S = 0.1

# A server that went away without a word is noticed within some ten seconds (libpq's parameters) ...
_CLIENT_SIDE = {
    "connect_timeout": 5,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# ... and so is a client, whose session and lock end then (the server's; an older one lacks some of them). A client that stands
# still in a transaction would keep all writers waiting. What a call has returned from is on disk, whatever is usual there.
_SERVER_SIDE = """
    SELECT set_config(wanted.name, wanted.value, false)
    FROM (VALUES
        ('tcp_keepalives_idle', '3'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'),
        ('tcp_user_timeout', '10000'), ('client_connection_check_interval', '2000'),
        ('idle_in_transaction_session_timeout', '10000'),
        ('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END)
    ) AS wanted (name, value) JOIN pg_settings USING (name)
"""
_END_FORMER = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = %s AND datname = current_database() AND pid <> pg_backend_pid()
"""


class Postgres:
    """See :class:`edif.records.database.Database`.

    Args:
        url: as libpq takes it, with all its parameters.
        leading: whether the store is opened to lead: then nothing is written without the lock.

    Raises:
        SetupError: the URL cannot be read. The sentence has nothing of it, for it may hold a password.
    """

    def __init__(self, url: str, *, leading: bool) -> None:
        self._parameters = _parameters(url)
        self._leading = leading
        self._name = f"edif writer {secrets.token_hex(8)}"
        self._complaints: set[tuple[Doing, str]] = set()

    def engine(self, *, writing: bool) -> sa.Engine:
        # The driver gets the parameters from us, so that SQLAlchemy, which logs, does not know them.
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connect_to_write if writing else lambda: self._connect("edif reader"),
            pool_size=1 if writing else READERS,
            max_overflow=0,
            use_native_hstore=False,
            isolation_level="READ COMMITTED" if writing else "AUTOCOMMIT",
        )
        if writing:
            sa.event.listen(engine, "begin", _wait_for_other_writers)
        return engine

    def told(self, error: Exception, doing: Doing) -> Exception:
        if isinstance(error, DataError):
            return Refused(
                errors.REQUEST_INVALID, "A text is too long for the record store, or holds a NUL character."
            )
        if not isinstance(error, OperationalError | InterfaceError | InternalError):
            return error
        self._complain(doing, first_line(error))
        unavailable = _unavailable(error, doing)
        unavailable.__cause__ = error
        return unavailable

    def refusal(self, error: Exception) -> SetupError:
        return SetupError(
            errors.STORE_UNREACHABLE,
            f"The record store in PostgreSQL cannot be used: {first_line(error)}.",
            "See that the server runs, and that `record_store` names it and a database that exists.",
        )

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(**{**_CLIENT_SIDE, **self._parameters, "application_name": name})

    def _connect_to_write(self) -> psycopg.Connection[Any]:
        connection = self._connect(self._name)
        try:
            connection.execute(_SERVER_SIDE)
            if self._leading:
                self._take_the_lead(connection)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        self._complaints.clear()
        return connection

    def _complain(self, doing: Doing, reason: str) -> None:
        """Log what is wrong: once, until there is a connection again."""
        if (doing, reason) not in self._complaints:
            self._complaints.add((doing, reason))
            log.warning("records.unavailable", doing=doing.name.lower(), reason=reason)

    def _take_the_lead(self, connection: psycopg.Connection[Any]) -> None:
        for _ in range(_FORMER_TRIES):
            if _lead_is_got(connection):
                return
            # The network may have cut a session of ours of which the server does not know yet. It may have ended since we asked
            # for the lead, too: a session gives its locks back before it leaves the list.
            former = connection.execute(_END_FORMER, (self._name,)).fetchall()
            if not former:
                if _lead_is_got(connection):
                    return
                raise LeadLost(errors.LEAD_LOST, "Another gateway leads this fabric.")
            time.sleep(_FORMER_PAUSE_S)
        raise StoreUnavailable(
            errors.STORE_UNREACHABLE, "The record store still holds a connection that has ended."
        )


def _lead_is_got(connection: psycopg.Connection[Any]) -> bool:
    (got,) = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", _LEAD).fetchone() or (False,)
    return bool(got)


def _wait_for_other_writers(connection: sa.Connection) -> None:
    """Before its first statement, so that each transaction sees all that was written before it."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, %s)", _WRITE)


def _unavailable(error: sa.exc.DBAPIError, doing: Doing) -> StoreUnavailable:
    if isinstance(error.orig, psycopg.errors.DiskFull):
        return StoreUnavailable(
            errors.STORAGE_FULL, "The fabric's record store has no space left; nothing was recorded."
        )
    if doing is Doing.COMMITTING and cut_off(error):
        return StoreUnavailable(
            errors.STORE_UNREACHABLE,
            "The fabric's record store was lost while it recorded this; it may have been recorded or not.",
            in_doubt=True,
        )
    sentence = {
        Doing.READING: "The fabric's record store cannot be read now.",
        Doing.WRITING: "The fabric's record store cannot be written now; nothing was recorded.",
        Doing.COMMITTING: "The fabric's record store refused a commit; nothing was recorded.",
    }[doing]
    return StoreUnavailable(errors.STORE_UNREACHABLE, sentence)


def _parameters(url: str) -> dict[str, Any]:
    unreadable = SetupError(
        errors.CONFIG_INVALID,
        "The setting 'record_store' is not the URL of a PostgreSQL database.",
        "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %-escapes for @ : / ? # % in the password.",
    )
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.Error:
        raise unreadable from None
    # Else a password with a bare @ or / would be shown as part of a host or port that is not there.
    ports = str(parameters.get("port") or "").replace(",", "")
    if "@" in str(parameters.get("host") or "") or (ports and not ports.isdigit()):
        raise unreadable
    return parameters
