"""The record store on SQLAlchemy Core, put together from what is kept about each noun."""

from collections.abc import Callable

import sqlalchemy as sa

from edif.records.audit_records import AuditRecords
from edif.records.job_records import JobRecords
from edif.records.people_records import PeopleRecords
from edif.records.switch_records import SwitchRecords
from edif.records.usage_records import UsageRecords


class SqlRecordStore(JobRecords, PeopleRecords, SwitchRecords, AuditRecords, UsageRecords):
    """See :class:`edif.records.store.RecordStore`; open it with :func:`edif.records.migrate.open_store`."""

    async def upgrade(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Bring the schema up, on the connection that writes from then on."""
        await self._write(upgrade)
