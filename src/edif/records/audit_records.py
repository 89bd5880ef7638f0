"""The audit log. Entries are appended in the transaction of the act itself: there is neither one without the other."""

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from edif.core.audit import FABRIC, AuditEntry, AuditRecord, sealed
from edif.records.access import Access
from edif.records.schema import audit, audit_head

# Built once: composing a statement costs more than the database needs to run it.
_lock_head = sa.select(audit_head.c.number, audit_head.c.hash).where(audit_head.c.id == 1).with_for_update()
_insert_entry = sa.insert(audit)
_move_head = (
    sa.update(audit_head)
    .where(audit_head.c.id == 1)
    .values(number=sa.bindparam("new_number"), hash=sa.bindparam("new_hash"))
)


class AuditRecords(Access):
    """See :class:`edif.records.store.AuditStore`."""

    async def note(self, action: str, subject: str, *, by: str = FABRIC, **detail: Any) -> None:
        await self._write(lambda connection: append(connection, action, subject, by, **detail))

    async def audit(
        self, *, after: int = 0, limit: int = 1000, about: str | None = None
    ) -> list[AuditRecord]:
        statement = sa.select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
        if about is not None:
            statement = statement.where(sa.or_(audit.c.subject == about, audit.c.actor == about))
        return [_record(row) for row in await self._fetch(statement)]

    async def audit_end(self) -> tuple[int, str]:
        (row,) = await self._fetch(sa.select(audit_head).where(audit_head.c.id == 1))
        return row.number, row.hash


def append(connection: sa.Connection, action: str, subject: str, by: str, **detail: Any) -> None:
    """Append an entry in this transaction. Others that would append wait for its end."""
    previous = connection.execute(_lock_head).one()
    number = previous.number + 1
    text = msgspec.json.encode(detail, order="sorted").decode()
    entry = AuditEntry(time.time_ns() // 1000, by, action, subject, text)
    sealed_with = sealed(previous.hash, number, entry)
    connection.execute(
        _insert_entry,
        {
            "number": number,
            "at_us": entry.at_us,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
            "hash": sealed_with,
        },
    )
    connection.execute(_move_head, {"new_number": number, "new_hash": sealed_with})


def _record(row: sa.Row[Any]) -> AuditRecord:
    entry = AuditEntry(row.at_us, row.actor, row.action, row.subject, row.detail)
    return AuditRecord(row.number, entry, row.hash)
