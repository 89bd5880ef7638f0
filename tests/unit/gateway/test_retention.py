"""Tidying the blob store: only what is surely nobody's, and never at the fabric's expense."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import kept_name, payload_name, result_name
from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import ANONYMOUS, JobId, ModelId
from edif.core.job import Attempt, AttemptOutcome, Ending, Extras, Job, JobState
from edif.gateway.retention import (
    Deleted,
    Retention,
    delete_blobs,
    keep_tidy,
    retire_some,
    sweep_strays,
)
from edif.records.sql_store import SqlRecordStore


def _job(job_id: str) -> Job:
    return Job(JobId(job_id), ANONYMOUS, ModelId("m"), "k", False, {}, 1, 1.0)


async def _complete(records: SqlRecordStore, name: str, now: float) -> None:
    """With a result, and something kept."""
    await records.begin_attempt(Attempt(JobId(name), 1, "a1", "r1", 1.0, 9.0))
    ending = Ending(JobState.COMPLETED, result_bytes=1, kept_bytes=1)
    assert await records.end_job(JobId(name), ending, now=now, attempt=1, outcome=AttemptOutcome.COMPLETED)


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


async def test_payload_of_an_ended_job_goes_and_its_result_stays(
    records: SqlRecordStore, blobs: FileBlobs
) -> None:
    """The gateway died between the end's record and the deletion of the payload."""
    await records.add_job(_job("j-ended"))
    await records.end_job(JobId("j-ended"), Ending(JobState.FAILED), now=2.0, attempt=None, outcome=None)
    _put(blobs, payload_name("j-ended"), result_name("j-ended", 1))
    await sweep_strays(records, blobs)
    assert await blobs.names() == [result_name("j-ended", 1)]


async def test_blobs_of_a_job_that_has_none_any_more_go(records: SqlRecordStore, blobs: FileBlobs) -> None:
    """They were renamed by one process while another one deleted them."""
    await records.add_job(_job("j-deleted"))
    await records.end_job(JobId("j-deleted"), Ending(JobState.FAILED), now=2.0, attempt=None, outcome=None)
    await records.mark_blobs_deleted([_job("j-deleted")])
    _put(blobs, result_name("j-deleted", 1, 1))
    await sweep_strays(records, blobs)
    assert await blobs.names() == []


@pytest.mark.parametrize("of", [result_name, kept_name])
@pytest.mark.parametrize(("attempt", "revocations"), [(2, 4), (2, 5), (1, 0)])
async def test_blobs_are_deleted_under_whatever_name_they_lie(
    blobs: FileBlobs, of: Callable[..., str], attempt: int, revocations: int
) -> None:
    name = of("j1", attempt, revocations)
    others = [result_name("j2", 2, 4), payload_name("j2")]
    _put(blobs, payload_name("j1"), name, *others)
    await delete_blobs(blobs, replace(_job("j1"), attempts=2, revocations=5, kept_bytes=1))
    assert sorted(await blobs.names()) == sorted(others)


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

    async def first_unavailable(ended_before: float, limit: int = 100) -> list[Job]:
        calls.put_nowait(None)
        if calls.qsize() == 1:
            raise StoreUnavailable(errors.STORAGE_FULL, "no")
        return await real(ended_before, limit)

    monkeypatch.setattr(records, "expired_blobs", first_unavailable)
    task = asyncio.create_task(keep_tidy(records, blobs, Retention(0.01, 1.0), lambda job: None))
    async with asyncio.timeout(60):
        while calls.qsize() < 3:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_results_go_first_and_records_after_them(records: SqlRecordStore, blobs: FileBlobs) -> None:
    ended = {"attempt": None, "outcome": None}
    for name, now in (("j-old", 100.0), ("j-young", 180.0)):
        await records.add_job(_job(name))
        _put(blobs, payload_name(name), result_name(name, 1), result_name(name, 3))
        await records.end_job(JobId(name), Ending(JobState.FAILED), now=now, **ended)  # type: ignore[arg-type]
    told: list[str] = []
    periods = Retention(results_s=50.0, records_s=100.0)

    async def retire(now: float) -> tuple[int, int]:
        while await retire_some(records, blobs, periods, lambda job: told.append(job.id), now):
            pass
        return len(await blobs.names()), len(await records.jobs())

    assert await retire_some(records, blobs, periods, lambda job: None, 149.0) == Deleted(0, 0)
    assert await retire(149.0) == (6, 2)
    assert await retire(151.0) == (3, 2)
    assert await retire(201.0) == (3, 1)
    assert await retire(281.0) == (0, 0)
    assert told == ["j-old", "j-young"]


async def test_what_a_job_keeps_outlives_the_wait_of_those_that_use_it(
    records: SqlRecordStore, blobs: FileBlobs
) -> None:
    """A job that was accepted is not lost, and it needs them."""
    names = [kept_name("j-keeps", 1), result_name("j-keeps", 1)]
    await records.add_job(_job("j-keeps"))
    _put(blobs, *names)
    await _complete(records, "j-keeps", 100.0)
    await records.add_job(replace(_job("j-uses"), extras=Extras(uses=("j-keeps",))))
    periods = Retention(results_s=50.0, records_s=1000.0)
    assert not await retire_some(records, blobs, periods, lambda job: None, 200.0)
    assert sorted(await blobs.names()) == sorted(names)
    failed = Ending(JobState.FAILED)
    await records.end_job(JobId("j-uses"), failed, now=200.0, attempt=None, outcome=None)
    assert await retire_some(records, blobs, periods, lambda job: None, 201.0) == Deleted(1, 0)
    assert await blobs.names() == []


async def test_kept_values_in_use_keep_no_other_result(records: SqlRecordStore, blobs: FileBlobs) -> None:
    """However many they are, and though they are the oldest."""
    keepers = [f"j-keeps-{number:03}" for number in range(120)]
    for number, name in enumerate([*keepers, "j-other"]):
        await records.add_job(_job(name))
        await _complete(records, name, 100.0 + number)
    for start in range(0, len(keepers), 16):
        uses = Extras(uses=tuple(keepers[start : start + 16]))
        await records.add_job(replace(_job(f"j-uses-{start}"), extras=uses))
    periods = Retention(results_s=50.0, records_s=10_000.0)
    told: list[str] = []
    while await retire_some(records, blobs, periods, lambda job: told.append(job.id), 1000.0):
        pass
    assert told == ["j-other"]


async def test_a_record_is_never_forgotten_before_its_result(
    records: SqlRecordStore, blobs: FileBlobs
) -> None:
    await records.add_job(_job("j1"))
    await records.end_job(JobId("j1"), Ending(JobState.FAILED), now=100.0, attempt=None, outcome=None)
    assert not await retire_some(records, blobs, Retention(50.0, 1.0), lambda job: None, 149.0)
    assert len(await records.jobs()) == 1
