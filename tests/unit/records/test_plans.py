"""How the databases come to an answer that is wanted often, however many jobs are on record."""

from typing import Any

import pytest
import sqlalchemy as sa

from edif.records.schema import jobs
from edif.records.sql_store import SqlRecordStore
from tests.unit.records.factories import BOB, StoreFactory, a_job

MANY, STORED = 20_000, 20


async def explained(store: SqlRecordStore, ask: Any, explain: str) -> str:
    """How the database does what ``ask`` has it do."""
    said: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        if statement.startswith("SELECT"):
            said.append((statement, parameters))

    sa.event.listen(store._read_engine, "before_cursor_execute", note)
    await ask()
    sa.event.remove(store._read_engine, "before_cursor_execute", note)
    ((statement, parameters),) = said
    with store._read_engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters or None).all()
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_stored_results_are_counted_without_reading_all_jobs(
    store: SqlRecordStore, factory: StoreFactory, analyzed: bool
) -> None:
    first = a_job(owner=BOB)
    await store.add_job(first)
    values = dict(store_row(store, first.id))
    rows = [
        {
            **values,
            "id": f"many{number}",
            "result_bytes": 5,
            "ended_at": 1.0,
            "blobs_deleted": number >= STORED,
        }
        for number in range(MANY)
    ]

    def fill(connection: sa.Connection) -> None:
        connection.execute(sa.insert(jobs), rows)
        if analyzed or factory.name == "postgres":  # which analyzes by itself before long
            connection.exec_driver_sql("ANALYZE")

    await store._write(fill)
    assert await store.stored_bytes() == {BOB: 5 * STORED}
    explain = "EXPLAIN QUERY PLAN" if factory.name == "sqlite" else "EXPLAIN"
    for ask in (store.stored_bytes, store.revoked_results):
        plan = await explained(store, ask, explain)
        assert "ix_jobs_stored" in plan, plan


def store_row(store: SqlRecordStore, job_id: str) -> Any:
    with store._read_engine.connect() as connection:
        return connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()._mapping
