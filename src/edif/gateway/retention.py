"""How long results and records of jobs are kept, and what becomes of payloads and results that belong to no job.

A payload goes as soon as its job has ended; one that a gateway left when it died in between goes at the next start.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from edif.blobs.revoking import end_revocation, names, names_before
from edif.blobs.store import (
    BlobStore,
    job_of,
    kept_name,
    payload_name,
    result_name,
    revocations_of,
)
from edif.core.job import MAX_ATTEMPTS, Job
from edif.records.store import RecordStore

log = structlog.get_logger()

_EVERY_S = 60.0
_AT_ONCE = 100
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
    expired = await records.expired_blobs(now - retention.results_s, _AT_ONCE)
    if any(job.kept_bytes is not None for job in expired):
        used = {used for job in await records.unfinished_jobs() for used in job.extras.uses}
        if used:  # they stay, else a job that was accepted could not run; so many more are looked at, that others go all the same
            expired = await records.expired_blobs(now - retention.results_s, _AT_ONCE + len(used))
            expired = [job for job in expired if job.id not in used][:_AT_ONCE]
    for job in expired:
        await delete_blobs(blobs, job)
    marked = await records.mark_blobs_deleted(expired) if expired else set()
    for job in expired:
        if job.id in marked:
            retired(job)
    forgotten = await records.forget_jobs(now - max(retention.records_s, retention.results_s))
    return Deleted(len(marked), forgotten)


async def delete_blobs(blobs: BlobStore, job: Job) -> None:
    """Delete the payload and every result of a job, under whatever names they may lie by this record of it, and what it keeps."""
    of_attempts = (
        name(job.id, attempt) for attempt in range(1, MAX_ATTEMPTS + 1) for name in (result_name, kept_name)
    )
    renamed = [*names_before(job), *names(job)] if job.revocations else []
    for name in (payload_name(job.id), *of_attempts, *renamed):
        await blobs.delete(name)


async def sweep_strays(records: RecordStore, blobs: BlobStore) -> None:
    """Delete blobs of no recorded job, or of one that has none any more, and payloads of ended ones: the gateway died between an
    upload's last byte and its record, or between a job's end and the deletion of its payload. Revocations that it began are ended, and
    those that a record from a copy does not know are learned.

    Only before the gateway takes requests, else it would meet uploads that are about to be recorded. A store
    without any job deletes nothing: someone may have put an empty one beside blobs that are still wanted.
    """
    listed = await blobs.names()
    await _end_revocations(records, blobs, listed)
    without = await records.without_blobs({job_of(name) for name in listed})
    unfinished = {job.id for job in await records.unfinished_jobs()}
    unwanted = {payload_name(job_of(name)) for name in listed if job_of(name) not in unfinished}
    strays = [name for name in listed if job_of(name) in without or name in unwanted]
    if not strays:
        return
    if not await records.jobs(limit=1):
        log.warning("gateway.blobs_of_no_job", blobs=len(strays))
        return
    for name in strays:
        await blobs.delete(name)
    log.info("gateway.strays_swept", blobs=len(strays))


async def _end_revocations(records: RecordStore, blobs: BlobStore, listed: list[str]) -> None:
    """Links that were revoked open no result, whatever the gateway before this one met when it renamed it.

    Records that were brought back from a copy may be behind the blobs: they learn of the revocations since.
    """
    revoked = {job.id: job for job in await records.revoked_results()}
    for name in filter(revocations_of, listed):
        job = revoked.get(job_of(name)) or await records.job(job_of(name))
        missed = 0 if job is None else revocations_of(name) - job.revocations
        if job is not None and missed > 0 and await records.revoke_links(job, times=missed):
            revoked[job.id] = replace(job, revocations=revocations_of(name))
            log.warning("gateway.revocations_learned", job=job.id, revocations=revocations_of(name))
    for name in listed:
        job = revoked.get(job_of(name))
        if job is not None and name in names_before(job):
            await end_revocation(blobs, job)
