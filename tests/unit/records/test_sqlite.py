"""What is particular to the store on SQLite: durability pragmas, a full disk, a lock held by someone else."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edif.core import errors
from edif.core.errors import SetupError, StoreUnavailable
from edif.core.ids import UserName
from edif.core.job import AttemptOutcome, Job, JobState
from edif.core.users import Role, User
from edif.records.migrate import open_store
from edif.records.sql_store import SqlRecordStore
from edif.records.sqlite import DATABASE_NAME
from tests.unit.helpers import fill
from tests.unit.records.factories import ADA, a_job, an_attempt, an_ending


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlRecordStore]:
    store = await open_store(tmp_path)
    yield store
    await store.close()


class Disk:
    """Lets the store's file grow by so many pages and no further, as a full disk would, until it is freed."""

    def __init__(self, store: SqlRecordStore, extra: int = 0) -> None:
        self._extra: int | None = extra
        sa.event.listen(store._write_engine, "begin", self._limit)

    def _limit(self, connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        limit = 1_073_741_823 if self._extra is None else pages + self._extra
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

    def free(self) -> None:
        self._extra = None


async def test_every_connection_syncs_each_commit_and_checks_foreign_keys(store: SqlRecordStore) -> None:
    for engine in (store._write_engine, store._read_engine):
        with engine.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 10_000,
        }


async def test_erased_words_are_nowhere_in_the_file_whatever_the_build_of_sqlite_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.dbapi2.connect

    def as_built_without_secure_delete(*arguments: object, **more: object) -> sqlite3.Connection:
        connection = real(*arguments, **more)  # type: ignore[call-overload]
        connection.execute("PRAGMA secure_delete=OFF")
        return connection

    monkeypatch.setattr(sqlite3.dbapi2, "connect", as_built_without_secure_delete)
    name, email, words = UserName("zebedee"), "zebedee@example.org", "words of the code " * 1000
    store = await open_store(tmp_path)
    await store.add_user(User(name, Role.RESEARCHER, 1.0, email))
    jobs = [a_job(owner=name) for _ in range(20)]
    for job in jobs:
        await store.add_job(job)
        ending = an_ending(JobState.FAILED, description=words)
        await store.end_job(job.id, ending, now=1.0, attempt=None, outcome=None)
    assert b"words of the code" in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    await store.erase_user(name, UserName("erased-1"))
    await store.close()
    whole = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for erased in (b"zebedee", b"words of the code"):
        assert erased not in whole


# -- a full disk ---------------------------------------------------------------------------------------
async def test_full_disk_refuses_and_records_nothing(store: SqlRecordStore) -> None:
    Disk(store)
    big = a_job(model_key="x" * 100_000)
    with pytest.raises(StoreUnavailable) as refused:
        await store.add_job(big)
    assert refused.value.kind is errors.STORAGE_FULL
    assert await store.job(big.id) is None
    assert await store.jobs() == []


async def test_store_works_again_when_there_is_space_again(store: SqlRecordStore) -> None:
    disk = Disk(store)
    big = a_job(model_key="x" * 100_000)
    with pytest.raises(StoreUnavailable):
        await store.add_job(big)
    disk.free()
    await store.add_job(big)
    assert await store.job(big.id) == big


async def test_full_disk_in_the_middle_of_an_ending_leaves_job_and_attempt_as_they_were(
    store: SqlRecordStore,
) -> None:
    """The attempt's row is changed before the job's, which does not fit."""
    job = a_job()
    await store.add_job(job)
    await store.begin_attempt(an_attempt(job.id))
    Disk(store)
    with pytest.raises(StoreUnavailable):
        await store.end_job(
            job.id,
            an_ending(description="x" * 100_000),
            now=1.0,
            attempt=1,
            outcome=AttemptOutcome.COMPLETED,
        )
    assert await store.current_attempt(job.id) is not None
    found = await store.job(job.id)
    assert found is not None
    assert found.state is JobState.RUNNING


async def test_full_disk_in_the_middle_of_one_commit_lies_to_nobody(store: SqlRecordStore) -> None:
    """Many small writes share a commit with one that does not fit: who hears of success, is recorded."""
    Disk(store, extra=1)
    jobs = [a_job(model_key="x" * (100_000 if n == 10 else 10)) for n in range(20)]
    outcomes = await asyncio.gather(*(store.add_job(job) for job in jobs), return_exceptions=True)
    recorded = {job.id for job in await store.jobs()}
    for job, outcome in zip(jobs, outcomes, strict=True):
        assert isinstance(outcome, StoreUnavailable) is (job.id not in recorded), outcome
        assert isinstance(outcome, Job) is (job.id in recorded), outcome
    assert jobs[10].id not in recorded


async def test_reading_goes_on_while_the_disk_is_full(store: SqlRecordStore) -> None:
    job = a_job()
    await store.add_job(job)
    await store.add_user(User(ADA, Role.RESEARCHER, 1.0))
    Disk(store)
    with pytest.raises(StoreUnavailable):
        await store.add_job(a_job(model_key="x" * 100_000))
    assert await store.job(job.id) == job
    assert await store.any_user()


# -- closing -------------------------------------------------------------------------------------------
async def test_closing_finishes_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "closing")
    jobs = [a_job() for _ in range(50)]
    writes = [asyncio.create_task(store.add_job(job)) for job in jobs]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == jobs
    with pytest.raises(RuntimeError, match="closed"):
        await store.add_job(a_job())


# -- someone else's lock -------------------------------------------------------------------------------
async def test_write_waits_for_another_process_that_writes(store: SqlRecordStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    job = a_job()
    writing = asyncio.create_task(store.add_job(job))
    reading = await store.jobs()  # readers do not wait for writers
    assert reading == []
    assert not writing.done()
    other.execute("COMMIT")
    other.close()
    assert await writing == job


async def test_full_disk_is_told_apart_from_a_folder_that_cannot_be_used(small_disk: Path) -> None:
    """The supervisor waits for the one and gives up on the other."""
    await (await open_store(small_disk)).close()
    fill(small_disk)
    with pytest.raises(SetupError) as refused:
        await open_store(small_disk)
    assert refused.value.kind is errors.STORAGE_FULL
