"""What an operator has switched: a row for each switch that is on."""

import sqlalchemy as sa

from edif.core.audit import FABRIC
from edif.records import audit_tail
from edif.records.access import Access
from edif.records.schema import switches

_DRAINING = "draining"


class SwitchRecords(Access):
    """See :class:`edif.records.store.SwitchStore`."""

    async def set_draining(self, draining: bool, *, by: str = FABRIC) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(switches).where(switches.c.name == _DRAINING))
            if draining:
                connection.execute(sa.insert(switches), {"name": _DRAINING})
            action = "fabric.drain_asked" if draining else "fabric.resumed"
            audit_tail.append(connection, action, "", by)

        await self._write(work)

    async def draining(self) -> bool:
        return bool(await self._fetch(sa.select(switches.c.name).where(switches.c.name == _DRAINING)))
