"""Tidying the blob store: only what is surely nobody's, and never at the fabric's expense."""

import asyncio
from pathlib import Path

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import payload_name, result_name
from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import ANONYMOUS, JobId, ModelId
from edif.core.job import Job
from edif.gateway.retention import retire_blobs, sweep_strays
from edif.records.sql_store import SqlRecordStore


def _job(job_id: str) -> Job:
    return Job(JobId(job_id), ANONYMOUS, ModelId("m"), "k", False, {}, 1, 1.0)


def _put(blobs: FileBlobs, *names: str) -> None:
    for name in names:
        blobs.path(name).write_bytes(b"x")


async def test_strays_go_and_everything_else_stays(records: SqlRecordStore, blobs: FileBlobs) -> None:
    await records.add_job(_job("j-known"))
    kept = [payload_name("j-known"), result_name("j-known", 1)]
    _put(blobs, *kept, payload_name("j-stray"), result_name("j-stray", 2))
    odd = [blobs.folder / "payload" / ".nfs0001", blobs.folder / "result" / "copy.bak"]
    for path in odd:
        path.write_bytes(b"x")
    (blobs.folder / "payload" / "folder").mkdir()
    await sweep_strays(records, blobs)
    assert sorted(await blobs.names()) == sorted(kept)
    assert all(path.exists() for path in odd)


async def test_a_store_without_jobs_deletes_nothing(records: SqlRecordStore, blobs: FileBlobs) -> None:
    """Somebody lost the database, and will bring it back from a copy."""
    _put(blobs, payload_name("j1"), result_name("j1", 1))
    await sweep_strays(records, blobs)
    assert len(await blobs.names()) == 2


async def test_retention_goes_on_after_a_failure(
    records: SqlRecordStore, blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = asyncio.Queue[None]()
    real = records.expired_blobs

    async def first_unavailable(ended_before: float, limit: int = 100) -> list[JobId]:
        calls.put_nowait(None)
        if calls.qsize() == 1:
            raise StoreUnavailable(errors.STORAGE_FULL, "no")
        return await real(ended_before, limit)

    monkeypatch.setattr(records, "expired_blobs", first_unavailable)
    task = asyncio.create_task(retire_blobs(records, blobs, retention_s=0.01))
    async with asyncio.timeout(5):
        while calls.qsize() < 3:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
