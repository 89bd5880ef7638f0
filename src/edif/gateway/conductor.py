"""Tells the scheduler what happened and carries out what it decides: attempts begin, jobs end, replicas start and stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from edif import faults
from edif.blobs.links import Links, LinkSigner
from edif.blobs.store import kept_name, kept_of, payload_name, result_name
from edif.core import errors
from edif.core.errors import EdifError, StoreUnavailable
from edif.core.ids import JobId
from edif.core.job import Attempt, AttemptOutcome, ClientStatus, Ending, Extras, Job, JobState
from edif.core.limits import Limits
from edif.faults import Point
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.agents import AgentLinks
from edif.gateway.decisions import Decisions
from edif.gateway.sealing import Sealing
from edif.gateway.telling import Positions, Results
from edif.gateway.unwanted import Unwanted
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.telemetry import metrics
from edif.wire import link

log = structlog.get_logger()

T = TypeVar("T")

STORE_RETRY_S = 1.0


async def durably(write: Callable[[], Awaitable[T]]) -> T:
    """Do a write that must happen: while the store cannot, the caller waits, and nothing is lost."""
    while True:
        try:
            return await write()
        except StoreUnavailable as error:
            log.warning("fabric.store_unavailable", reason=error.sentence)
            await asyncio.sleep(STORE_RETRY_S)


class Conductor:
    """Only one task may use it: what is recorded, decided and told has one order.

    Args:
        post: puts an event into the inbox of that task, for what comes up while a decision is carried out.
    """

    def __init__(
        self,
        decisions: Decisions,
        *,
        limits: Limits,
        records: RecordStore,
        unwanted: Unwanted,
        catalogue: Catalogue,
        signer: LinkSigner,
        links: Links,
        sealing: Sealing,
        active: ActiveJobs,
        agents: AgentLinks,
        results: Results,
        positions: Positions,
        post: Callable[[ev.Event], None],
    ) -> None:
        self.scheduler = decisions.scheduler
        self.drained = asyncio.Event()
        self._decisions = decisions
        self._limits = limits
        self._records = records
        self._unwanted = unwanted
        self._catalogue = catalogue
        self._signer = signer
        self._links = links
        self._sealing = sealing
        self._active = active
        self._agents = agents
        self._results = results
        self._positions = positions
        self._post = post

    async def decide(self, event: ev.Event) -> None:
        for action in self._decisions.handle(event):
            await self._carry_out(action)
        if self.scheduler.draining and not self.scheduler.running():
            self.drained.set()

    async def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.BeginAttempt():
                await self._begin(action)
            case ev.RequeueJob(job=job, attempt=attempt):
                await durably(partial(self._records.lose_attempt, job, attempt))
                faults.point(Point.REQUEUE_RECORDED)
                active = self._active[job]
                self._active.enter(active, JobState.QUEUED)
                active.tell(ClientStatus.QUEUED, "The try was interrupted; it will be tried again.")
            case ev.FailJob(job=job, error=kind, sentence=sentence, attempt=attempt):
                await self.fail(job, EdifError(kind, sentence), attempt)
            case ev.CancelJob(job=job, attempt=attempt):
                error = EdifError(errors.CANCELLED, "The job was cancelled.")
                await self.fail(job, error, attempt, JobState.CANCELLED)
            case ev.StopAttempt(job=job, attempt=attempt, agent=agent):
                self._agents.send(agent, link.CancelAttempt(job, attempt))
            case ev.StartReplica(agent=agent, replica=replica, model=model):
                deployment = self._catalogue[model]
                cell = self._sealing.cell(deployment)
                self._agents.send(
                    agent, link.StartReplica(replica, deployment.spec, cell, deployment.merging)
                )
            case ev.StopReplica(agent=agent, replica=replica):
                self._agents.send(agent, link.StopReplica(replica))
            case ev.TellWaiting(job=job, position=position, loading=loading):
                active = self._active[job]
                active.tell_waiting(self._positions.wait(active, position, loading=loading))
            case ev.TellPositions(model=model):
                self._positions.moved(model)

    async def _begin(self, action: ev.BeginAttempt) -> None:
        now = time.time()
        attempt = Attempt(
            action.job, action.attempt, action.agent, action.replica, now, now + self._limits.time_s
        )
        # The agent is told while the attempt is being recorded. Should this process die in between, the agent's
        # attempt is not on record, so it is unwanted when the agent returns, and the job is tried afresh.
        recording = asyncio.create_task(durably(partial(self._records.begin_attempt, attempt)))
        active = self._active[action.job]
        self._active.enter(active, JobState.RUNNING, attempts=action.attempt)
        limits, deployment = self._limits, self._catalogue[active.job.model]
        valid_s = limits.time_s + 24 * 3600
        kept = [await self._kept_blob(JobId(used), valid_s) for used in active.job.extras.uses]
        self._agents.send(
            action.agent,
            link.RunAttempt(
                action.job,
                action.attempt,
                action.replica,
                cell=self._sealing.cell(deployment, active.job.owner),
                merge=self._sealing.merges(deployment, active.job),
                compress=active.job.compress,
                env=active.job.env,
                extras=self._extras(active.job),
                payload_url=await self._links.link(payload_name(action.job), valid_s),
                result_url=self._signer.path("put", result_name(action.job, action.attempt), now + valid_s),
                kept_url=self._signer.path("put", kept_name(action.job, action.attempt), now + valid_s),
                kept=kept,
                time_limit_s=limits.time_s,
                result_limit_bytes=limits.result_bytes,
                expanded_limit_bytes=limits.payload_expanded_bytes,
                log_limit_bytes=limits.log_bytes,
            ),
        )
        active.tell_cancellable(ClientStatus.DISPATCHED)
        if not await recording:
            self._agents.send(action.agent, link.CancelAttempt(action.job, action.attempt))
            self._post(ev.AttemptRefused(action.job))
        faults.point(Point.ATTEMPT_RECORDED)

    async def _kept_blob(self, job_id: JobId, valid_s: float) -> link.KeptBlob:
        """What that job keeps. That it did was checked when the job that uses it came; the agent finds out if it is gone."""
        job = await durably(partial(self._records.job, job_id))
        name = kept_name(job_id, 0) if job is None else kept_of(job)
        return link.KeptBlob(job_id, name, await self._links.link(name, valid_s))

    def _extras(self, job: Job) -> Extras:
        """With the speed of the site's lines, if the client has not said its own."""
        speed = job.extras.link_bytes_per_s or self._limits.link_bytes_per_s
        return replace(job.extras, link_bytes_per_s=speed)

    async def fail(
        self, job_id: JobId, error: EdifError, attempt: int | None, state: JobState = JobState.FAILED
    ) -> None:
        active = self._active.get(job_id)
        if active is None:
            return
        outcome = None if attempt is None else AttemptOutcome.LOST
        ending = Ending(state, error.detail, error.code, meta=active.cost(link.Usage()))
        await self.end(active, ending, attempt, outcome)

    async def end(
        self, active: ActiveJob, ending: Ending, attempt: int | None, outcome: AttemptOutcome | None
    ) -> None:
        """Record the ending, once, and tell it."""
        job, now = active.job, time.time()
        recorded = await durably(
            partial(self._records.end_job, job.id, ending, now=now, attempt=attempt, outcome=outcome)
        )
        if not recorded:
            self._active.forget(active)
            log.warning("fabric.second_ending", job=job.id, state=ending.state)
            return
        faults.point(Point.END_RECORDED)
        self._active.end(active, ending)
        metrics.JOBS_ENDED.labels(job.model, ending.state.value).inc()
        if "shared_passes" in ending.meta:
            metrics.JOBS_MERGED.labels(job.model).inc()
        log.info(
            "job.ended", job=job.id, owner=job.owner, model=job.model, state=ending.state.value, **ending.meta
        )
        await self._results.tell(active, ending)
        faults.point(Point.END_TOLD)
        await self._delete_unwanted(job, ending)

    async def _delete_unwanted(self, job: Job, ending: Ending) -> None:
        """The payload, and what tries that do not count have left."""
        lost = job.attempts - 1 if ending.state is JobState.COMPLETED else job.attempts
        tries = range(1, lost + 1)
        names = [name(job.id, attempt) for attempt in tries for name in (result_name, kept_name)]
        await self._unwanted.delete(payload_name(job.id), *names)
