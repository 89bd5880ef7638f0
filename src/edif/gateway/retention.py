"""How long results and records of jobs are kept, and what becomes of payloads and results that belong to no job.

A payload goes as soon as its job has ended; one that a gateway left when it died in between goes at the next start.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from edif.blobs.store import BlobStore, job_of, kept_name, payload_name, result_name
from edif.core.ids import JobId
from edif.core.job import MAX_ATTEMPTS, Job
from edif.records.store import RecordStore

log = structlog.get_logger()

_EVERY_S = 60.0
_HALF_WRITTEN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds since a job's end.

    Attributes:
        results_s: after so long its result is deleted.
        records_s: after so long, and not before its result, the record of the job. What it used stays counted.
    """

    results_s: float
    records_s: float


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many jobs lost their result, and how many their record. False if none did."""

    results: int
    records: int

    def __bool__(self) -> bool:
        return bool(self.results or self.records)


async def keep_tidy(
    records: RecordStore, blobs: BlobStore, retention: Retention, retired: Callable[[Job], None]
) -> None:
    """Delete what has been kept for long enough; runs until cancelled. ``retired`` is told each job whose result went."""
    while True:
        more = False
        try:
            deleted = await retire_some(records, blobs, retention, retired, time.time())
            if deleted:
                log.info("gateway.retired", results=deleted.results, records=deleted.records)
            more = bool(deleted)
            await blobs.sweep_temporary(_HALF_WRITTEN_S)
        except Exception as error:  # noqa: BLE001 - the fabric goes on without tidying, and it is tried again
            log.warning("gateway.retention_failed", reason=repr(error))
        if not more:
            await asyncio.sleep(min(_EVERY_S, retention.results_s))


async def retire_some(
    records: RecordStore, blobs: BlobStore, retention: Retention, retired: Callable[[Job], None], now: float
) -> Deleted:
    """Delete some of what is due at ``now`` (Unix seconds). If there was any, more may be left."""
    expired = await records.expired_blobs(now - retention.results_s)
    if any(job.kept_bytes is not None for job in expired):
        used = {used for job in await records.unfinished_jobs() for used in job.extras.uses}
        expired = [job for job in expired if job.id not in used]  # else a job that was accepted could not run
    for job in expired:
        await delete_blobs(blobs, job.id)
    if expired:
        await records.mark_blobs_deleted([job.id for job in expired])
    for job in expired:
        retired(job)
    forgotten = await records.forget_jobs(now - max(retention.records_s, retention.results_s))
    return Deleted(len(expired), forgotten)


async def delete_blobs(blobs: BlobStore, job_id: JobId) -> None:
    """Delete the payload and every result of a job, and what it keeps."""
    await blobs.delete(payload_name(job_id))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        await blobs.delete(result_name(job_id, attempt))
        await blobs.delete(kept_name(job_id, attempt))


async def sweep_strays(records: RecordStore, blobs: BlobStore) -> None:
    """Delete blobs of no recorded job and payloads of ended ones: the gateway died between an upload's last byte and its
    record, or between a job's end and the deletion of its payload.

    Only before the gateway takes requests, else it would meet uploads that are about to be recorded. A store
    without any job deletes nothing: someone may have put an empty one beside blobs that are still wanted.
    """
    names = await blobs.names()
    unknown = await records.unknown_jobs({job_of(name) for name in names})
    unfinished = {job.id for job in await records.unfinished_jobs()}
    unwanted = {payload_name(job_of(name)) for name in names if job_of(name) not in unfinished}
    strays = [name for name in names if job_of(name) in unknown or name in unwanted]
    if not strays:
        return
    if not await records.jobs(limit=1):
        log.warning("gateway.blobs_of_no_job", blobs=len(strays))
        return
    for name in strays:
        await blobs.delete(name)
    log.info("gateway.strays_swept", blobs=len(strays))
