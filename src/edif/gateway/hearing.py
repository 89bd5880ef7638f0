"""What node agents say of attempts and replicas, and what follows from it."""

import asyncio
import contextlib
import time
from functools import partial

import structlog

from edif import faults
from edif.blobs.store import BlobStore, kept_name, result_name
from edif.core import errors
from edif.core.errors import BlobsUnavailable
from edif.core.ids import AgentId, JobId, ReplicaId
from edif.core.job import AttemptOutcome, ClientStatus, Ending, Job, JobState
from edif.faults import Point
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.agents import AgentLinks
from edif.gateway.conductor import Conductor, durably
from edif.gateway.entitlements import Entitlements
from edif.gateway.telling import Results
from edif.scheduler import events as ev
from edif.wire import link

log = structlog.get_logger()


class Hearing:
    """Only the task of the :class:`Conductor` may use it."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        blobs: BlobStore,
        active: ActiveJobs,
        agents: AgentLinks,
        entitlements: Entitlements,
        results: Results,
    ) -> None:
        self._results = results
        self._conductor = conductor
        self._scheduler = conductor.scheduler
        self._blobs = blobs
        self._active = active
        self._agents = agents
        self._entitlements = entitlements

    async def hear(self, agent: AgentId, message: link.ToGateway) -> None:
        match message:
            case link.AttemptStarted() | link.AttemptLog() | link.AttemptSaving():
                if (active := self._current(message.job, message.attempt)) is not None:
                    self._hear_progress(active, message)
            case link.AttemptEnded():
                await self._attempt_ended(agent, message)
            case link.ReplicaLoading(replica=replica, stage=stage):
                self._replica_loading(ReplicaId(replica), stage)
            case link.ReplicaReady(replica=replica, load_s=load_s):
                log.info("fabric.replica_ready", replica=replica, load_s=round(load_s, 2))
                self._note_load(ReplicaId(replica))
                await self._conductor.decide(ev.ReplicaBecameReady(ReplicaId(replica)))
            case link.ReplicaFailed(replica=replica, sentence=sentence, died=died):
                log.error("fabric.replica_failed", replica=replica, reason=sentence)
                await self._conductor.decide(ev.ReplicaFailed(ReplicaId(replica), sentence, died))
            case link.ReplicaStopped(replica=replica):
                await self._conductor.decide(ev.ReplicaStopped(ReplicaId(replica)))

    def _hear_progress(
        self, active: ActiveJob, message: link.AttemptStarted | link.AttemptLog | link.AttemptSaving
    ) -> None:
        match message:
            case link.AttemptStarted():
                active.began = time.monotonic()
                active.tell_cancellable(ClientStatus.RUNNING)
            case link.AttemptLog(text=text):
                active.note(text)
            case link.AttemptSaving():
                active.tell(ClientStatus.RUNNING, "Your code is done; its result is being stored.")

    def _current(self, job: str, attempt: int) -> ActiveJob | None:
        active = self._active.get(JobId(job))
        if active is None or active.job.state is not JobState.RUNNING or active.job.attempts != attempt:
            return None
        return active

    def _replica_loading(self, replica: ReplicaId, stage: str) -> None:
        model = self._scheduler.model_of(replica)
        if model is None:
            return
        for job in self._scheduler.waiting(model):
            self._active[job].tell(ClientStatus.DEPLOYING, f"The model is being brought up: {stage}.")

    def _note_load(self, replica: ReplicaId) -> None:
        """What the jobs in the queue have waited until now, they have waited for the model."""
        model = self._scheduler.model_of(replica)
        for job in () if model is None else self._scheduler.waiting(model):
            self._active[job].note_load()

    async def _attempt_ended(self, agent: AgentId, message: link.AttemptEnded) -> None:
        job_id = JobId(message.job)
        active = self._current(message.job, message.attempt)
        if active is not None:
            faults.point(Point.END_HEARD)
            outcome = await self._believed_outcome(active.job, message)
            if outcome is AttemptOutcome.LOST:
                log.warning(
                    "fabric.attempt_lost", job=job_id, attempt=message.attempt, reason=message.sentence
                )
                await self._conductor.decide(ev.AttemptLost(job_id, message.attempt, message.sentence))
            else:
                ending = active.ending(message)
                await self._charge(active, ending)
                # The replica gets its next job while this one's end is being recorded.
                await asyncio.gather(
                    self._conductor.end(active, ending, message.attempt, outcome),
                    self._conductor.decide(ev.AttemptOver(job_id, message.attempt, ending.seconds)),
                )
        self._agents.send(agent, link.OutcomeRecorded(message.job, message.attempt))

    async def _charge(self, active: ActiveJob, ending: Ending) -> None:
        """Count what the job used, before the next one is chosen: a quota that is used up now holds it."""
        owner, now = active.job.owner, time.time()
        self._active.charge(active, ending, self._entitlements.people.group_of(owner), now)
        for event in self._entitlements.spent(owner, now):
            await self._conductor.decide(event)

    async def _believed_outcome(self, job: Job, message: link.AttemptEnded) -> AttemptOutcome:
        """What the agent says, but a completed attempt without a result in the store is a lost one, and so is one that missed kept
        values because links to them were revoked in that moment.
        """
        if message.outcome is not AttemptOutcome.COMPLETED:
            gone = message.error_code == errors.KEPT_GONE.code
            return AttemptOutcome.LOST if gone and await self._renamed(job) else message.outcome
        names = [result_name(message.job, message.attempt)]
        if message.kept_bytes is not None:
            names.append(kept_name(message.job, message.attempt))
        # A store that cannot be asked now has taken the result from the agent, as far as anybody knows.
        with contextlib.suppress(BlobsUnavailable):
            for name in names:
                if await self._blobs.size(name) is None:
                    log.error("fabric.result_missing", job=message.job, attempt=message.attempt, blob=name)
                    return AttemptOutcome.LOST
        return message.outcome

    async def _renamed(self, job: Job) -> bool:
        with contextlib.suppress(BlobsUnavailable):
            return await durably(partial(self._results.renamed_meanwhile, job.extras.uses))
        return False
