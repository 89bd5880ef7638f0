"""The audit log, read; and acts that the store itself does not do, noted."""

from typing import Any

import sqlalchemy as sa

from edif.core.audit import FABRIC, AuditEntry, AuditRecord
from edif.records import audit_tail
from edif.records.access import Access
from edif.records.schema import audit, audit_head


class AuditRecords(Access):
    """See :class:`edif.records.store.AuditStore`."""

    async def note(self, action: str, subject: str, *, by: str = FABRIC, **detail: Any) -> None:
        await self._write(lambda connection: audit_tail.append(connection, action, subject, by, **detail))

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


def _record(row: sa.Row[Any]) -> AuditRecord:
    entry = AuditEntry(row.at_us, row.actor, row.action, row.subject, row.detail)
    return AuditRecord(row.number, entry, row.hash)
