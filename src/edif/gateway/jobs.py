"""What a request or a socket asks about one job: it is read or recorded here, and the runtime's inbox hears of it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from edif import faults
from edif.blobs.store import payload_name
from edif.core import errors
from edif.core.errors import NotFound, Refused, StoreUnavailable
from edif.core.ids import JobId, UserId, UserName
from edif.core.job import ClientStatus, Job, JobState
from edif.core.users import Identity
from edif.faults import Point
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.conductor import durably
from edif.gateway.entitlements import Entitlements
from edif.gateway.runtime import Item
from edif.gateway.stored_results import StoredResults
from edif.gateway.subscribers import Subscriber
from edif.gateway.telling import Results
from edif.gateway.unwanted import Unwanted
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.telemetry import metrics
from edif.wire.client_protocol import StatusFrame


class Jobs:
    """Jobs by their owners: handed in, looked up, followed, cancelled.

    Args:
        post: puts an item into the runtime's inbox.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        unwanted: Unwanted,
        active: ActiveJobs,
        entitlements: Entitlements,
        results: Results,
        stored_results: StoredResults,
        post: Callable[[Item], None],
    ) -> None:
        self._records = records
        self._unwanted = unwanted
        self._active = active
        self._entitlements = entitlements
        self._results = results
        self._stored_results = stored_results
        self._post = post

    async def accept(
        self,
        job: Job,
        *,
        sender: UserId | None = None,
        subscriber: Subscriber | None,
        base_url: str,
        received: float,
    ) -> StatusFrame:
        """Record a job whose payload is already in the blob store; it is durable when this returns.

        Raises:
            AuthRefused: ``sender`` is no user any more.
            OverLimit: a quota leaves no room for it.
        """
        frame = StatusFrame(
            job.id, ClientStatus.RECEIVED, f"Your job was accepted. To cancel: edif jobs cancel {job.id}"
        )
        active = ActiveJob(job, frame, subscriber, base_url, received)
        faults.point(Point.PAYLOAD_STORED)
        try:
            # Between the question and the entry nobody else can take the last place.
            self.check_quota(job.owner)
            self._active.add(active)
            recorded = await self._recorded(job, sender)
        except Exception:
            self._active.forget(active)
            await self._unwanted.delete(payload_name(job.id))
            raise
        if recorded.id != job.id:
            self._active.forget(active)
            await self._unwanted.delete(payload_name(job.id))
            return await self.status(recorded, base_url)
        faults.point(Point.JOB_RECORDED)
        self._post(ev.JobQueued(job.id, job.model, claim=self._entitlements.claim(job.owner, time.time())))
        metrics.JOBS_ACCEPTED.labels(job.model).inc()
        return frame

    async def _recorded(self, job: Job, sender: UserId | None) -> Job:
        """
        Raises:
            AuthRefused: ``sender`` is no user any more.
            StoreUnavailable: it is surely not on record.
        """
        add = partial(self._records.add_job, job, by=await self._entitlements.actor(job.owner), sender=sender)
        try:
            return await add()
        except StoreUnavailable as error:
            if not error.in_doubt:
                raise
            # It may be on record, and would then run one day: so it is asked for until it surely is, before anything is told.
            return await durably(add)

    async def sent_before(self, owner: UserName, client_key: str) -> Job | None:
        """The job that an earlier request of this user with this key became."""
        return await self._records.job_of_key(owner, client_key)

    def check_quota(self, user: UserName) -> None:
        """
        Raises:
            OverLimit: a quota leaves no room for another job of this user.
        """
        self._entitlements.admission.check(user, time.time())

    def uses(self, user: UserName) -> dict[str, Any]:
        """What the user and the group may use and use, for ``GET /edif/v1/quota``."""
        return self._entitlements.admission.view(user, time.time())

    async def find(self, job_id: str, identity: Identity) -> Job:
        """
        Raises:
            NotFound: no such job, or it belongs to someone else.
        """
        job = await self._records.job(JobId(job_id))
        if job is None or (job.owner != identity.name and not identity.operator):
            raise NotFound(errors.JOB_UNKNOWN, f"There is no job {job_id[:60]!r} of yours.")
        return job

    async def status(self, job: Job, base_url: str) -> StatusFrame:
        """The job's last status, with a fresh link when there is a result."""
        active = self._active.get(job.id)
        if active is not None:
            return active.frame
        return await self._results.frame(job, base_url)

    async def check_uses(self, uses: tuple[str, ...], owner: UserName) -> None:
        """
        Raises:
            NotFound: one of these jobs is none of this owner's that keeps values.
        """
        for job_id in uses:
            job = await self._records.job(JobId(job_id))
            if job is None or job.owner != owner or job.state is not JobState.COMPLETED:
                raise NotFound(
                    errors.JOB_UNKNOWN,
                    f"The trace uses values of {job_id[:60]!r}, which is no completed job of yours.",
                )
            await self._results.check_kept(job)

    async def kept_link(self, job: Job, base_url: str) -> str:
        """A fresh link to what the job keeps.

        Raises:
            NotFound: it keeps nothing, or not any more.
        """
        return await self._results.kept_link(await self._results.check_kept(job), base_url)

    async def follow(self, job_id: str, subscriber: Subscriber, base_url: str) -> StatusFrame:
        """The last status of a job of this subscriber's owner; whatever comes after it is told there from now on."""
        job = await self._records.job(JobId(job_id))
        if job is None or job.owner != subscriber.owner:
            unknown = NotFound(errors.JOB_UNKNOWN, f"There is no job {job_id[:60]!r} of yours.")
            return StatusFrame(job_id, ClientStatus.ERROR, unknown.detail)
        active = self._active.get(job.id)
        if active is not None:
            active.subscriber, active.base_url = subscriber, base_url
            return active.frame
        # It may have ended while its record was read: then the record says so by now.
        return await self._results.frame(await self._records.job(job.id) or job, base_url)

    async def cancel(self, job: Job, by: UserName) -> None:
        """Have the job end; that this was asked for is durable when this returns.

        Raises:
            Refused: the job has already ended.
        """
        try:
            asked = await self._records.ask_cancel(job.id, by=await self._entitlements.actor(by))
        except StoreUnavailable:
            # A job that runs wild is stopped even so; only that this was asked for may be forgotten.
            self._post(ev.CancelAsked(job.id))
            raise
        if not asked:
            raise Refused(
                errors.STATE_CONFLICT,
                f"The job {job.id} has already ended.",
                f"There is nothing to cancel; how it ended says: edif jobs show {job.id}",
            )
        self._post(ev.CancelAsked(job.id))

    async def revoke_links(self, job: Job, by: UserName) -> Job:
        """See :meth:`StoredResults.revoke_links`; the job as it is on record then."""
        return await self._stored_results.revoke_links(job, await self._entitlements.actor(by))

    async def delete_result(self, job: Job, by: UserName) -> None:
        """See :meth:`StoredResults.delete`."""
        await self._stored_results.delete(job, await self._entitlements.actor(by))

    def note(self, job_id: JobId, text: str) -> None:
        """Show a LOG line to whoever listens to this job."""
        if (active := self._active.get(job_id)) is not None:
            active.note(text)
