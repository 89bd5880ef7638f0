"""What clients are told of their jobs: how far they are while they wait, how they ended, where the result lies."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from edif.blobs.links import Links
from edif.blobs.revoking import Name, present_size
from edif.blobs.store import BlobStore, kept_of, result_of
from edif.core import errors
from edif.core.errors import BlobsUnavailable, NotFound
from edif.core.ids import JobId, ModelId, UserName
from edif.core.job import ClientStatus, Ending, Job, JobState
from edif.gateway.active import ActiveJob, ActiveJobs, Wait
from edif.gateway.agents import AgentLinks
from edif.gateway.entitlements import Entitlements
from edif.scheduler.decide import Scheduler
from edif.wire.client_protocol import StatusFrame, encode_push

LINK_VALID_S = 24 * 3600.0
ESTIMATES_EVERY_S = 10.0

_STATUS_OF_STATE = {
    JobState.QUEUED: ClientStatus.QUEUED,
    JobState.RUNNING: ClientStatus.RUNNING,
    JobState.COMPLETED: ClientStatus.COMPLETED,
    JobState.FAILED: ClientStatus.ERROR,
    JobState.CANCELLED: ClientStatus.ERROR,
}


class Results:
    """Endings, with the result or the way to it.

    Args:
        push_bytes: results up to this size are also sent on the status socket.
        record: a job as it is on record now.
    """

    def __init__(
        self,
        blobs: BlobStore,
        links: Links,
        push_bytes: int,
        record: Callable[[JobId], Awaitable[Job | None]],
    ) -> None:
        self._record = record
        self._blobs = blobs
        self._links = links
        self._push_bytes = push_bytes

    async def link(self, job: Job, base_url: str) -> str:
        return await self._link(result_of(job), base_url)

    async def kept_link(self, job: Job, base_url: str) -> str:
        return await self._link(kept_of(job), base_url)

    async def _link(self, name: str, base_url: str) -> str:
        link = await self._links.link(name, LINK_VALID_S)
        return base_url + link if link.startswith("/") else link

    async def check_kept(self, job: Job) -> Job:
        """The job by its present record.

        Raises:
            NotFound: the job keeps no values, or not any more.
        """
        if job.kept_bytes is None:
            raise NotFound(errors.KEPT_GONE, f"The job {job.id} keeps no values on the fabric.")
        found = await self._found(kept_of, job)
        if found is None:
            raise NotFound(errors.KEPT_GONE, f"The values that job {job.id} kept are not there any more.")
        return found

    async def _found(self, name: Name, job: Job) -> Job | None:
        """The job by a record that has the present name of what is asked for; None if that is not kept any more."""
        while await present_size(self._blobs, name, job) is None:
            now = await self._record(job.id)
            if now is None or now.revocations <= job.revocations:
                return None
            job = now  # it was given another name meanwhile
        return job

    async def renamed_meanwhile(self, uses: Sequence[str]) -> bool:
        """Whether all is there that these jobs keep, and some of it may have been called otherwise when somebody missed it."""
        jobs = [await self._record(JobId(used)) for used in uses]
        there = [job for job in jobs if job is not None and await self._found(kept_of, job) is not None]
        return len(there) == len(jobs) and any(job.revocations for job in there)

    async def frame(self, job: Job, base_url: str) -> StatusFrame:
        """The last status of a job as it is on record, with a fresh link when there is a result."""
        if job.state is not JobState.COMPLETED:
            return StatusFrame(job.id, _STATUS_OF_STATE[job.state], job.description, meta=job.meta or None)
        found = await self._found(result_of, job)
        if found is None:
            gone = NotFound(errors.RESULT_GONE, "This job's result is no longer kept.")
            return StatusFrame(job.id, ClientStatus.ERROR, gone.detail, meta=job.meta)
        link = await self.link(found, base_url)
        return StatusFrame(job.id, ClientStatus.COMPLETED, job.description, link, job.meta)

    async def tell(self, active: ActiveJob, ending: Ending) -> None:
        """Tell the ending to whoever listens, a small result at once with it."""
        if active.subscriber is None:
            return
        job_id = active.job.id
        if ending.state is not JobState.COMPLETED:
            active.subscriber.tell(
                StatusFrame(job_id, ClientStatus.ERROR, ending.description, meta=ending.meta)
            )
            return
        frame = StatusFrame(job_id, ClientStatus.COMPLETED, ending.description, meta=ending.meta)
        if ending.result_bytes is not None and ending.result_bytes <= self._push_bytes:
            # A store that is away for this moment will be there when the client comes with a link; who revoked links or deleted
            # the result in this moment has had that done.
            with contextlib.suppress(BlobsUnavailable, FileNotFoundError):
                result = await self._blobs.read(result_of(active.job))
                active.subscriber.push(encode_push(frame, result))
                return
        link = await self.link(active.job, active.base_url)
        active.subscriber.tell(StatusFrame(job_id, frame.status, frame.description, link, frame.meta))


class Positions:
    """Tells those who wait their place and when they are expected to begin, whenever it has changed."""

    def __init__(
        self, scheduler: Scheduler, active: ActiveJobs, agents: AgentLinks, entitlements: Entitlements
    ) -> None:
        self._scheduler = scheduler
        self._active = active
        self._agents = agents
        self._entitlements = entitlements
        self._stale: set[ModelId] = set()
        self._estimated = 0.0

    def moved(self, model: ModelId) -> None:
        self._stale.add(model)

    def wait(self, active: ActiveJob, position: int, *, loading: bool, in_s: float | None = None) -> Wait:
        held_back = self._entitlements.waiting_for(active.job.owner, time.time())
        return Wait(
            position,
            in_s,
            loading=loading,
            any_agent=bool(self._agents),
            draining=self._scheduler.draining,
            held_back=held_back,
            crowded=None if held_back is not None else self._crowded(active),
        )

    def _crowded(self, active: ActiveJob) -> str | None:
        met = self._scheduler.limit_met(active.job.id)
        return None if met is None else self._entitlements.crowded(active.job.owner, met)

    def refresh(self, now: float, *, all_models: bool = False) -> None:
        """Tell what moved since the last call; estimates, which move by themselves, every ten seconds."""
        models, self._stale = self._stale, set()
        if all_models or now - self._estimated > ESTIMATES_EVERY_S:
            self._estimated = now
            models = {view.model for view in self._scheduler.view() if view.queued}
        for model in models:
            loading = self._scheduler.loading(model)
            starts = self._scheduler.forecast(model, now)
            for position, start in enumerate(starts, start=1):
                if (active := self._active.get(start.job)) is not None:
                    active.tell_waiting(self.wait(active, position, loading=loading, in_s=start.in_s))
            self._tell_held(model, {start.job for start in starts})

    def _tell_held(self, model: ModelId, told: set[JobId]) -> None:
        """Those whom a used-up quota holds, or a limit that jobs on other models fill, have no place in the forecast: they are
        told what they wait for.
        """
        reasons: dict[UserName, str | None] = {}
        for position, job in enumerate(self._scheduler.waiting(model), start=1):
            active = None if job in told else self._active.get(job)
            if active is None:
                continue
            owner = active.job.owner
            if owner not in reasons:
                held_back = self._entitlements.waiting_for(owner, time.time())
                reasons[owner] = held_back or self._crowded(active)
            if reasons[owner] is not None:
                active.tell_waiting(Wait(position, held_back=reasons[owner]))
