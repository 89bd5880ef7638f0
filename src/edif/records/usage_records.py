"""What was used, added up by day in the transaction that ends a job: it outlives the jobs' own records."""

from typing import Any

import sqlalchemy as sa

from edif.core.ids import GroupName, JobId, ModelId, UserName
from edif.core.job import Ending, JobState
from edif.core.quota import day_of
from edif.core.usage import Held, UsageRow
from edif.records.access import Access
from edif.records.schema import jobs, stored_results, usage, users

_whose = (
    sa.select(jobs.c.owner, sa.func.coalesce(users.c.group_name, ""), jobs.c.model)
    .select_from(jobs.outerjoin(users, users.c.name == jobs.c.owner))
    .where(jobs.c.id == sa.bindparam("job_id"))
)
# A payload is deleted when its job has ended, a result by retention.
_payload = sa.case((jobs.c.ended_at.is_(None), jobs.c.payload_bytes), else_=0)
_stored = sa.func.coalesce(jobs.c.result_bytes, 0) + sa.func.coalesce(jobs.c.kept_bytes, 0)
_COUNTED = ("jobs", "failed", "seconds", "tokens", "result_bytes")
_add = (
    sa.update(usage)
    .where(
        usage.c.day == sa.bindparam("of_day"),
        sa.tuple_(usage.c.user, usage.c.group_name, usage.c.model).in_(_whose),
    )
    .values({name: usage.c[name] + sa.bindparam(f"more_{name}") for name in _COUNTED})
)
_begin = sa.insert(usage)


class UsageRecords(Access):
    """See :class:`edif.records.store.UsageStore`."""

    async def usage(self, *, since: int = 0, before: int | None = None) -> list[UsageRow]:
        statement = sa.select(usage).where(usage.c.day >= since)
        if before is not None:
            statement = statement.where(usage.c.day < before)
        order = (usage.c.day, usage.c.user, usage.c.group_name, usage.c.model)
        return [_row(row) for row in await self._fetch(statement.order_by(*order))]

    async def stored_bytes(self) -> dict[UserName, int]:
        size = sa.func.sum(_stored).label("total")
        statement = sa.select(jobs.c.owner, size).where(stored_results).group_by(jobs.c.owner)
        return {UserName(row.owner): int(row.total) for row in await self._fetch(statement)}

    async def held(self) -> Held:
        statement = sa.select(
            sa.func.count().filter(jobs.c.ended_at.is_(None)).label("unfinished"),
            sa.func.coalesce(sa.func.sum(_payload), 0).label("payload_bytes"),
            sa.func.count().filter(stored_results).label("results"),
            sa.func.coalesce(sa.func.sum(_stored).filter(stored_results), 0).label("result_bytes"),
            sa.func.min(jobs.c.ended_at).filter(stored_results).label("oldest_result"),
            sa.func.count().label("records"),
            sa.func.min(jobs.c.created_at).label("oldest_record"),
        )
        (row,) = await self._fetch(statement)
        return Held(
            row.unfinished,
            int(row.payload_bytes),
            row.results,
            int(row.result_bytes),
            row.oldest_result,
            row.records,
            row.oldest_record,
        )


def add(connection: sa.Connection, job_id: JobId, ending: Ending, now: float) -> None:
    """Count the end of this job, in this transaction."""
    more = {
        "jobs": 1,
        "failed": int(ending.state is not JobState.COMPLETED),
        "seconds": ending.seconds,
        "tokens": ending.tokens,
        "result_bytes": ending.result_bytes or 0,
    }
    values = {
        "of_day": day_of(now),
        "job_id": job_id,
        **{f"more_{name}": each for name, each in more.items()},
    }
    if connection.execute(_add, values).rowcount == 0:
        owner, group, model = connection.execute(_whose, {"job_id": job_id}).one()
        place = {"day": day_of(now), "user": owner, "group_name": group, "model": model}
        connection.execute(_begin, {**place, **more})


def _row(row: sa.Row[Any]) -> UsageRow:
    return UsageRow(
        day=row.day,
        user=UserName(row.user),
        group=GroupName(row.group_name) if row.group_name else None,
        model=ModelId(row.model),
        **{name: getattr(row, name) for name in _COUNTED},
    )
