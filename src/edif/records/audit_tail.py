"""Appending to the audit log, in the transaction of the act itself.

Each entry needs the number and the hash of the one before it. They are read and locked once in a transaction, with its first
entry, and written back once, with its last: one transaction holds the acts of many jobs.
"""

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from edif.core.audit import AuditEntry, sealed
from edif.records.schema import audit, audit_head

# Built once: composing a statement costs more than the database needs to run it.
_lock_head = sa.select(audit_head.c.number, audit_head.c.hash).where(audit_head.c.id == 1).with_for_update()
_insert_entry = sa.insert(audit)
_move_head = (
    sa.update(audit_head)
    .where(audit_head.c.id == 1)
    .values(number=sa.bindparam("new_number"), hash=sa.bindparam("new_hash"))
)
_KEPT = "edif.audit_tail"


class _Tail:
    """The end of the log as one transaction sees it, and the entries that it has not written yet."""

    def __init__(self, transaction: sa.RootTransaction | None, number: int, previous_hash: str) -> None:
        self.transaction = transaction
        self._number = number
        self._hash = previous_hash
        self._rows: list[dict[str, Any]] = []

    def append(self, entry: AuditEntry) -> None:
        self._number += 1
        self._hash = sealed(self._hash, self._number, entry)
        self._rows.append(
            {
                "number": self._number,
                "at_us": entry.at_us,
                "actor": entry.actor,
                "action": entry.action,
                "subject": entry.subject,
                "detail": entry.detail,
                "hash": self._hash,
            }
        )

    def write(self, connection: sa.Connection) -> None:
        connection.execute(_insert_entry, self._rows)
        connection.execute(_move_head, {"new_number": self._number, "new_hash": self._hash})


def append(connection: sa.Connection, action: str, subject: str, by: str, **detail: Any) -> None:
    """Append an entry in this transaction, before whose end :func:`write` is called. Others that would append wait for that end."""
    text = msgspec.json.encode(detail, order="sorted").decode()
    entry = AuditEntry(time.time_ns() // 1000, by, action, subject, text)
    if connection.in_nested_transaction():  # it may be undone alone, and its entries with it
        tail = _end_of_log(connection)
        tail.append(entry)
        tail.write(connection)
        return
    kept = _kept(connection)
    if kept is None:
        kept = connection.info[_KEPT] = _end_of_log(connection)
    kept.append(entry)


def write(connection: sa.Connection) -> None:
    """Write what was appended in this transaction and in no savepoint of it."""
    kept = _kept(connection)
    if kept is not None:
        del connection.info[_KEPT]
        kept.write(connection)


def _kept(connection: sa.Connection) -> _Tail | None:
    """What was read in this transaction; what an earlier one left that was undone counts no more."""
    kept: _Tail | None = connection.info.get(_KEPT)
    return None if kept is None or kept.transaction is not connection.get_transaction() else kept


def _end_of_log(connection: sa.Connection) -> _Tail:
    head = connection.execute(_lock_head).one()
    return _Tail(connection.get_transaction(), head.number, head.hash)
