"""What owners ask of results that are stored: that no link opens one any more, and that one be deleted."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from edif import faults
from edif.blobs.revoking import end_revocation, names
from edif.blobs.store import BlobStore, job_of
from edif.core import errors
from edif.core.errors import AuthRefused, BlobsUnavailable, NotFound, Refused
from edif.core.ids import JobId
from edif.core.job import Job, JobState
from edif.faults import Point
from edif.gateway.retention import delete_blobs
from edif.records.store import RecordStore


class StoredResults:
    """One thing at a time is done to each result. ``by`` is who asks, for the audit log.

    Args:
        retired: is told each job whose result was deleted.
    """

    def __init__(self, records: RecordStore, blobs: BlobStore, retired: Callable[[Job], None]) -> None:
        self._records = records
        self._blobs = blobs
        self._retired = retired
        self._turns: WeakValueDictionary[JobId, asyncio.Lock] = WeakValueDictionary()

    def _turn(self, job_id: JobId) -> asyncio.Lock:
        return self._turns.setdefault(job_id, asyncio.Lock())

    async def revoke_links(self, job: Job, by: str) -> Job:
        """No link that was made until now opens the job's result, or what it keeps, when this returns; downloads that have begun
        may end.

        Raises:
            Refused: the job has no result: it has not ended, or not well.
            NotFound: its result is not kept any more.
            BlobsUnavailable: the revocation may be on record, and is only ended when it is asked for again or a gateway starts.
        """
        if job.state is not JobState.COMPLETED:
            raise Refused(
                errors.STATE_CONFLICT,
                f"The job {job.id} has no result and no links: it is {job.state.value}.",
            )
        async with self._turn(job.id):
            if not await self._revoked(await self._again(job), by):
                raise _gone()
            revoked = await self._again(job)
            faults.point(Point.REVOCATION_RECORDED)
            try:
                kept = await end_revocation(self._blobs, revoked)
            except BlobsUnavailable as error:
                raise BlobsUnavailable(
                    error.kind,
                    f"{error.sentence} The links are revoked on record, but may still open the result.",
                    "Ask for it again until it is done.",
                ) from error
        if not kept:
            raise _gone()
        return revoked

    async def _revoked(self, job: Job, by: str) -> bool:
        """Whether there is a result, and a revocation more on record than ``job`` tells of."""
        # An earlier revocation is ended first: no blob is ever more than one name behind its record.
        return await end_revocation(self._blobs, job) and await self._records.revoke_links(job, by=by)

    async def delete(self, job: Job, by: str) -> None:
        """The job's result is not kept any more when this returns, and does not count any more.

        Raises:
            Refused: the job has not ended.
            BlobsUnavailable: nothing is on record, and it may be asked for again.
        """
        if not job.state.final:
            raise Refused(
                errors.STATE_CONFLICT,
                f"The job {job.id} has not ended, and so has no result to delete.",
                f"Wait for its end, or cancel it: edif jobs cancel {job.id}",
            )
        async with self._turn(job.id):
            while await self._kept(job.id):
                job = await self._again(job)
                await delete_blobs(self._blobs, job)
                if job.id in await self._records.mark_blobs_deleted([job], by=by):
                    self._retired(job)

    async def why_gone(self, name: str) -> Refused:
        """What is told to who comes with a good link to this name, under which there is no blob."""
        job = None if name.startswith("payload/") else await self._records.job(job_of(name))
        if job is not None and name not in names(job) and await self._kept(job.id):
            return AuthRefused(
                errors.LINK_INVALID,
                "This link was revoked.",
                f"Whose job it is gets a fresh one: GET /response/{job.id}, or edif.job({job.id!r}).result().",
            )
        return _gone()

    async def _kept(self, job_id: JobId) -> bool:
        return not await self._records.without_blobs([job_id])

    async def _again(self, job: Job) -> Job:
        """The job as it is on record now."""
        found = await self._records.job(job.id)
        if found is None:
            raise NotFound(errors.JOB_UNKNOWN, f"The job {job.id} is not on record any more.")
        return found


def _gone() -> NotFound:
    return NotFound(errors.RESULT_GONE, "This job's result is no longer kept.")
