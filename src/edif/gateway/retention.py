"""How long payloads and results are kept, and what becomes of those that belong to no job."""

import asyncio
import time

import structlog

from edif.blobs.store import BlobStore, job_of, payload_name, result_name
from edif.core.job import MAX_ATTEMPTS
from edif.records.store import RecordStore

log = structlog.get_logger()

_EVERY_S = 60.0
_HALF_WRITTEN_S = 24 * 3600.0


async def retire_blobs(records: RecordStore, blobs: BlobStore, retention_s: float) -> None:
    """Delete the blobs of jobs that ended longer ago than the retention time; runs until cancelled."""
    while True:
        more = False
        try:
            more = await _retire_some(records, blobs, retention_s)
            await blobs.sweep_temporary(_HALF_WRITTEN_S)
        except Exception as error:  # noqa: BLE001 - the fabric goes on without tidying, and it is tried again
            log.warning("gateway.retention_failed", reason=repr(error))
        if not more:
            await asyncio.sleep(min(_EVERY_S, retention_s))


async def _retire_some(records: RecordStore, blobs: BlobStore, retention_s: float) -> bool:
    expired = await records.expired_blobs(time.time() - retention_s)
    for job in expired:
        await blobs.delete(payload_name(job.id))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            await blobs.delete(result_name(job.id, attempt))
    if expired:
        await records.mark_blobs_deleted([job.id for job in expired])
        log.info("gateway.blobs_retired", jobs=len(expired))
    return bool(expired)


async def sweep_strays(records: RecordStore, blobs: BlobStore) -> None:
    """Delete blobs of no recorded job: the gateway died between an upload's last byte and its record.

    Only before the gateway takes requests, else it would meet uploads that are about to be recorded. A store
    without any job deletes nothing: someone may have put an empty one beside blobs that are still wanted.
    """
    names = await blobs.names()
    unknown = await records.unknown_jobs({job_of(name) for name in names})
    strays = [name for name in names if job_of(name) in unknown]
    if not strays:
        return
    if not await records.jobs(limit=1):
        log.warning("gateway.blobs_of_no_job", blobs=len(strays))
        return
    for name in strays:
        await blobs.delete(name)
    log.info("gateway.strays_swept", blobs=len(strays))
