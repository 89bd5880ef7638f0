"""The gateway's runtime: feeds the scheduler with events and carries out what it decides.

One task works through one inbox, so that what is recorded, what is decided and what clients are told has one
order. Requests, sockets and agents run beside it and only put events in.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from edif.blobs.links import LinkSigner
from edif.blobs.store import BlobStore, payload_name, result_name
from edif.core import errors
from edif.core.errors import EdifError, NotFound, Refused, StoreUnavailable
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import Attempt, AttemptOutcome, ClientStatus, Ending, Job, JobState
from edif.core.limits import Limits
from edif.core.users import Identity
from edif.gateway.active import ActiveJob
from edif.gateway.agents import AgentLink, AgentLinks
from edif.gateway.sealing import Sealing
from edif.gateway.subscribers import Subscriber
from edif.models.catalogue import Catalogue, Deployment
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.scheduler.decide import Scheduler
from edif.telemetry import metrics
from edif.wire import link
from edif.wire.client_protocol import StatusFrame, encode_push

log = structlog.get_logger()

T = TypeVar("T")

POSITIONS_EVERY_S = 1.0
USERS_EVERY_S = 0.5
STORE_RETRY_S = 1.0
LINK_VALID_S = 24 * 3600.0

_STATUS_OF_STATE = {
    JobState.QUEUED: ClientStatus.QUEUED,
    JobState.RUNNING: ClientStatus.RUNNING,
    JobState.COMPLETED: ClientStatus.COMPLETED,
    JobState.FAILED: ClientStatus.ERROR,
    JobState.CANCELLED: ClientStatus.ERROR,
}


@dataclass(frozen=True, slots=True)
class FabricConfig:
    """What the runtime is told by the composition root.

    Attributes:
        limits: the bounds of every job.
        push_bytes: results up to this size are also sent on the status socket.
        lease_s: how long an agent may be away before its attempts are given to others.
        store_id: names the blob folder, so that agents on the same machine can recognise it.
        keep_deployed: models that are brought up at once and kept up.
    """

    limits: Limits
    push_bytes: int
    lease_s: float
    store_id: str
    keep_deployed: tuple[ModelId, ...] = ()


@dataclass(frozen=True, slots=True)
class _FromAgent:
    agent: AgentId
    message: link.ToGateway


@dataclass(frozen=True, slots=True)
class _Joined:
    link: AgentLink


@dataclass(frozen=True, slots=True)
class _Left:
    link: AgentLink


@dataclass(frozen=True, slots=True)
class _LeaseEnded:
    agent: AgentId
    away_since: float


_Item = ev.Event | _FromAgent | _Joined | _Left | _LeaseEnded


class Fabric:
    """Jobs in, decisions carried out, statuses told."""

    def __init__(
        self,
        config: FabricConfig,
        *,
        records: RecordStore,
        blobs: BlobStore,
        catalogue: Catalogue,
        signer: LinkSigner,
    ) -> None:
        self.config = config
        self.catalogue = catalogue
        self.signer = signer
        self._records = records
        self._blobs = blobs
        prefix = f"r{secrets.token_hex(3)}"
        self._scheduler = Scheduler((ModelId(each.spec.id) for each in catalogue), prefix)
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._active: dict[JobId, ActiveJob] = {}
        self._agents = AgentLinks()
        self._away: dict[AgentId, float] = {}
        self._stale_positions: set[ModelId] = set()
        self._metadata_missing = {repo for each in catalogue for repo in (each.spec.id, *each.spec.adapters)}
        self._sealing = Sealing(config.limits)
        self._slots: dict[ModelId, int] = {}
        self.alive = False

    # -- life ------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Take up every job that an earlier gateway left unfinished."""
        await self._look_for_users()
        for job in await self._records.unfinished_jobs():
            active = self._active[job.id] = ActiveJob(job, StatusFrame(job.id, ClientStatus.QUEUED))
            attempt = await self._records.current_attempt(job.id)
            if job.model not in self.catalogue:
                await self._end_unserved(active, attempt)
            elif attempt is None:
                self._post(ev.JobQueued(job.id, job.model, job.attempts))
            else:
                agent = AgentId(attempt.agent)
                self._post(
                    ev.AttemptRemembered(job.id, job.model, attempt.number, agent, ReplicaId(attempt.replica))
                )
                self._start_lease(agent)
            if job.cancel_asked:
                self._post(ev.CancelAsked(job.id))
        for model in self.config.keep_deployed:
            self._post(ev.DeployAsked(model))

    async def _end_unserved(self, active: ActiveJob, attempt: Attempt | None) -> None:
        sentence = f"The model {active.job.model!r} is no longer served here."
        error = Refused(errors.MODEL_NOT_SERVED, sentence)
        await self._fail(active.job.id, error, None if attempt is None else attempt.number)

    async def run(self) -> None:
        """Work through the inbox until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._refresh_positions())
            tasks.create_task(self._watch_users())
            self.alive = True
            try:
                while True:
                    item = await self._inbox.get()
                    await self._work(item)
            finally:
                self.alive = False

    async def _work(self, item: _Item) -> None:
        match item:
            case _FromAgent(agent=agent, message=message):
                await self._hear(agent, message)
            case _Joined(link=joined):
                await self._agent_joined(joined)
            case _Left(link=left):
                self._agent_left(left)
            case _LeaseEnded(agent=agent, away_since=since):
                if self._away.get(agent) == since:
                    del self._away[agent]
                    log.warning("fabric.agent_lost", agent=agent)
                    await self._decide(ev.AgentLost(agent))
            case ev.AttemptRefused(job=job):
                await self._decide(item)
                if not self._scheduler.knows(job):  # else it waits again, to be refused again
                    self._active.pop(job, None)
            case _:
                await self._decide(item)

    def _post(self, item: _Item) -> None:
        self._inbox.put_nowait(item)

    # -- what requests ask -----------------------------------------------------------------------------
    def check_model(self, model_key: str, env: dict[str, Any]) -> Deployment:
        return self.catalogue.match(model_key, env)

    async def accept(
        self, job: Job, *, subscriber: Subscriber | None, base_url: str, received: float
    ) -> StatusFrame:
        """Record a job whose payload is already in the blob store; it is durable when this returns."""
        try:
            recorded = await self._records.add_job(job)
        except StoreUnavailable as error:
            if not error.in_doubt:
                await self._blobs.delete(payload_name(job.id))
                raise
            # It may be on record, and would then run one day: so it is asked for until it surely is, before anything is told.
            recorded = await self._durably(partial(self._records.add_job, job))
        if recorded.id != job.id:
            await self._blobs.delete(payload_name(job.id))
            return await self.status(recorded, base_url)
        frame = StatusFrame(
            job.id, ClientStatus.RECEIVED, f"Your job was accepted. To cancel: edif jobs cancel {job.id}"
        )
        self._active[job.id] = ActiveJob(job, frame, subscriber, base_url, received)
        self._post(ev.JobQueued(job.id, job.model))
        metrics.JOBS_ACCEPTED.labels(job.model).inc()
        return frame

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
        if job.state is JobState.COMPLETED:
            if await self._blobs.size(result_name(job.id, job.attempts)) is None:
                gone = NotFound(errors.RESULT_GONE, "This job's result is no longer kept.")
                return StatusFrame(job.id, ClientStatus.ERROR, gone.detail, meta=job.meta)
            return StatusFrame(
                job.id, ClientStatus.COMPLETED, job.description, self.result_link(job, base_url), job.meta
            )
        return StatusFrame(job.id, _STATUS_OF_STATE[job.state], job.description, meta=job.meta or None)

    def result_link(self, job: Job, base_url: str) -> str:
        name = result_name(job.id, job.attempts)
        return base_url + self.signer.path("get", name, time.time() + LINK_VALID_S)

    async def cancel(self, job: Job) -> None:
        """Have the job end; that this was asked for is durable when this returns.

        Raises:
            Refused: the job has already ended.
        """
        try:
            asked = await self._records.ask_cancel(job.id)
        except StoreUnavailable:
            # A job that runs wild is stopped even so; only that this was asked for may be forgotten.
            self._post(ev.CancelAsked(job.id))
            raise
        if not asked:
            raise Refused(errors.STATE_CONFLICT, f"The job {job.id} has already ended.")
        self._post(ev.CancelAsked(job.id))

    def deploy(self, model: ModelId) -> None:
        self._post(ev.DeployAsked(self._known_model(model)))

    def evict(self, model: ModelId) -> None:
        self._post(ev.EvictAsked(self._known_model(model)))

    def _known_model(self, model: ModelId) -> ModelId:
        if model not in self.catalogue:
            raise NotFound(errors.MODEL_NOT_SERVED, f"The model {model!r} is not served here.")
        return model

    def models(self) -> list[dict[str, Any]]:
        """What is served and how far it is, for ``/status`` and the command line."""
        rows = []
        for view in self._scheduler.view():
            deployment = self.catalogue[view.model]
            spec = deployment.spec
            state = "RUNNING" if view.ready else "DEPLOYING" if view.loading else "NOT_STARTED"
            rows.append(
                {
                    "model": view.model,
                    "revision": spec.revision,
                    "task": spec.task,
                    "dtype": spec.dtype,
                    "trust_remote_code": spec.trust_remote_code,
                    "isolation": "shared" if self._sealing.cell(deployment) is None else "sealed",
                    "jobs_at_once": self._sealing.slots(deployment),
                    "state": state,
                    "replicas": view.ready,
                    "queued": view.queued,
                }
            )
        return rows

    def agents(self) -> list[dict[str, Any]]:
        return [
            {
                "agent": agent,
                "host": hello.host,
                "pid": hello.pid,
                "running": len(self._scheduler.running_on(agent)),
            }
            for agent, hello in self._agents.hellos().items()
        ]

    def environment(self) -> dict[str, Any]:
        """Python and package versions of the workers, for ``GET /env``."""
        return self._agents.environment()

    @property
    def serving_python(self) -> str:
        return str(self.environment()["python_version"])

    # -- what agents say -------------------------------------------------------------------------------
    def agent_joined(self, hello: link.Hello, send: Callable[[link.ToAgent], None]) -> Callable[[], None]:
        """An agent's link is up. Returns what to call when it is down."""
        joined = AgentLink(hello, send)
        self._post(_Joined(joined))
        return lambda: self._post(_Left(joined))

    def heard(self, agent: str, message: link.ToGateway) -> None:
        self._post(_FromAgent(AgentId(agent), message))

    def metadata_arrived(self, repo: str) -> None:
        """This repository's metadata need not be asked for again; the model may have changed since an earlier run."""
        self._metadata_missing.discard(repo)

    async def _agent_joined(self, joined: AgentLink) -> None:
        agent = joined.agent
        self._agents.join(joined)
        self._away.pop(agent, None)
        hello = joined.hello
        believed = set(self._scheduler.running_on(agent))
        unwanted = [ref for ref in hello.running if (JobId(ref.job), ref.attempt) not in believed]
        joined.send(link.Welcome("edif", self.config.store_id, unwanted))
        for spec in (each.spec for each in self.catalogue):
            if not self._metadata_missing.isdisjoint((spec.id, *spec.adapters)):
                joined.send(link.SendMetadata(spec))
        log.info("fabric.agent_joined", agent=agent, host=hello.host, replicas=len(hello.replicas))
        replicas = tuple(
            ev.HeldReplica(ReplicaId(held.replica), ModelId(held.model), held.ready)
            for held in hello.replicas
        )
        running = frozenset((JobId(ref.job), ref.attempt) for ref in hello.running)
        await self._decide(ev.AgentJoined(agent, replicas, running))

    def _agent_left(self, left: AgentLink) -> None:
        if not self._agents.leave(left):
            return
        agent = left.agent
        self._scheduler.handle(ev.AgentAway(agent))
        log.warning("fabric.agent_away", agent=agent)
        self._start_lease(agent)

    def _start_lease(self, agent: AgentId) -> None:
        since = time.monotonic()
        self._away[agent] = since
        asyncio.get_running_loop().call_later(self.config.lease_s, self._post, _LeaseEnded(agent, since))

    async def _hear(self, agent: AgentId, message: link.ToGateway) -> None:
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
                await self._decide(ev.ReplicaBecameReady(ReplicaId(replica)))
            case link.ReplicaFailed(replica=replica, sentence=sentence):
                log.error("fabric.replica_failed", replica=replica, reason=sentence)
                await self._decide(ev.ReplicaFailed(ReplicaId(replica), sentence))
            case link.ReplicaStopped(replica=replica):
                await self._decide(ev.ReplicaStopped(ReplicaId(replica)))

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
        for job in self._scheduler.queue(model):
            self._active[job].tell(ClientStatus.DEPLOYING, f"The model is being brought up: {stage}.")

    def _note_load(self, replica: ReplicaId) -> None:
        """What the jobs in the queue have waited until now, they have waited for the model."""
        model = self._scheduler.model_of(replica)
        for job in () if model is None else self._scheduler.queue(model):
            self._active[job].note_load()

    async def _attempt_ended(self, agent: AgentId, message: link.AttemptEnded) -> None:
        job_id = JobId(message.job)
        active = self._current(message.job, message.attempt)
        if active is not None:
            outcome = await self._believed_outcome(message)
            if outcome is AttemptOutcome.LOST:
                log.warning(
                    "fabric.attempt_lost", job=job_id, attempt=message.attempt, reason=message.sentence
                )
                await self._decide(ev.AttemptLost(job_id, message.attempt, message.sentence))
            else:
                # The replica gets its next job while this one's end is being recorded.
                await asyncio.gather(
                    self._end(active, active.ending(message), message.attempt, outcome),
                    self._decide(ev.AttemptOver(job_id, message.attempt)),
                )
        self._agents.send(agent, link.OutcomeRecorded(message.job, message.attempt))

    async def _believed_outcome(self, message: link.AttemptEnded) -> AttemptOutcome:
        """What the agent says, but a completed attempt without a result in the store is a lost one."""
        name = result_name(message.job, message.attempt)
        if message.outcome is AttemptOutcome.COMPLETED and await self._blobs.size(name) is None:
            log.error("fabric.result_missing", job=message.job, attempt=message.attempt)
            return AttemptOutcome.LOST
        return message.outcome

    # -- what the scheduler decides --------------------------------------------------------------------
    async def _decide(self, event: ev.Event) -> None:
        for action in self._scheduler.handle(event):
            await self._carry_out(action)

    async def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.BeginAttempt():
                await self._begin(action)
            case ev.RequeueJob(job=job, attempt=attempt):
                await self._durably(partial(self._records.lose_attempt, job, attempt))
                active = self._active[job]
                active.job = replace(active.job, state=JobState.QUEUED)
                self._active[job].tell(
                    ClientStatus.QUEUED, "The try was interrupted; it will be tried again."
                )
            case ev.FailJob(job=job, error=kind, sentence=sentence, attempt=attempt):
                await self._fail(job, EdifError(kind, sentence), attempt)
            case ev.CancelJob(job=job, attempt=attempt):
                error = EdifError(errors.CANCELLED, "The job was cancelled.")
                await self._fail(job, error, attempt, JobState.CANCELLED)
            case ev.StopAttempt(job=job, attempt=attempt, agent=agent):
                self._agents.send(agent, link.CancelAttempt(job, attempt))
            case ev.StartReplica(agent=agent, replica=replica, model=model):
                deployment = self.catalogue[model]
                cell = self._sealing.cell(deployment)
                self._agents.send(agent, link.StartReplica(replica, deployment.spec, cell))
            case ev.StopReplica(agent=agent, replica=replica):
                self._agents.send(agent, link.StopReplica(replica))
            case ev.TellWaiting(job=job, position=position, loading=loading):
                self._active[job].tell_waiting(position, loading=loading, any_agent=bool(self._agents))
            case ev.TellPositions(model=model):
                self._stale_positions.add(model)

    async def _begin(self, action: ev.BeginAttempt) -> None:
        now = time.time()
        attempt = Attempt(
            action.job, action.attempt, action.agent, action.replica, now, now + self.config.limits.time_s
        )
        # The agent is told while the attempt is being recorded. Should this process die in between, the agent's
        # attempt is not on record, so it is unwanted when the agent returns, and the job is tried afresh.
        recording = asyncio.create_task(self._durably(partial(self._records.begin_attempt, attempt)))
        active = self._active[action.job]
        active.job = replace(active.job, attempts=action.attempt, state=JobState.RUNNING)
        limits = self.config.limits
        expires = now + limits.time_s + 24 * 3600
        self._agents.send(
            action.agent,
            link.RunAttempt(
                action.job,
                action.attempt,
                action.replica,
                cell=self._sealing.cell(self.catalogue[active.job.model], active.job.owner),
                compress=active.job.compress,
                env=active.job.env,
                payload_url=self.signer.path("get", payload_name(action.job), expires),
                result_url=self.signer.path("put", result_name(action.job, action.attempt), expires),
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

    async def _watch_users(self) -> None:
        """Notice within a second that the fabric is no longer open to all."""
        while True:
            await asyncio.sleep(USERS_EVERY_S)
            with contextlib.suppress(StoreUnavailable):
                await self._look_for_users()

    async def _look_for_users(self) -> None:
        self._sealing.any_user = await self._records.any_user()
        for deployment in self.catalogue:
            model, slots = ModelId(deployment.spec.id), self._sealing.slots(deployment)
            if self._slots.get(model) != slots:
                self._slots[model] = slots
                self._post(ev.SlotsChanged(model, slots))

    async def _fail(
        self, job_id: JobId, error: EdifError, attempt: int | None, state: JobState = JobState.FAILED
    ) -> None:
        active = self._active.get(job_id)
        if active is None:
            return
        outcome = None if attempt is None else AttemptOutcome.LOST
        ending = Ending(state, error.detail, error.code, meta=active.cost(link.Usage()))
        await self._end(active, ending, attempt, outcome)

    async def _end(
        self, active: ActiveJob, ending: Ending, attempt: int | None, outcome: AttemptOutcome | None
    ) -> None:
        """Record the ending, once, and tell it."""
        job = active.job
        recorded = await self._durably(
            partial(self._records.end_job, job.id, ending, now=time.time(), attempt=attempt, outcome=outcome)
        )
        self._active.pop(job.id, None)
        if not recorded:
            log.warning("fabric.second_ending", job=job.id, state=ending.state)
            return
        metrics.JOBS_ENDED.labels(job.model, ending.state.value).inc()
        log.info(
            "job.ended", job=job.id, owner=job.owner, model=job.model, state=ending.state.value, **ending.meta
        )
        await self._tell_ending(active, ending)

    @staticmethod
    async def _durably(write: Callable[[], Awaitable[T]]) -> T:
        """Do a write that must happen: while the store cannot, everything waits, and nothing is lost."""
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                log.warning("fabric.store_unavailable", reason=error.sentence)
                await asyncio.sleep(STORE_RETRY_S)

    # -- what clients are told -------------------------------------------------------------------------
    async def _tell_ending(self, active: ActiveJob, ending: Ending) -> None:
        if active.subscriber is None:
            return
        job_id = active.job.id
        if ending.state is not JobState.COMPLETED:
            active.subscriber.tell(
                StatusFrame(job_id, ClientStatus.ERROR, ending.description, meta=ending.meta)
            )
            return
        frame = StatusFrame(job_id, ClientStatus.COMPLETED, ending.description, meta=ending.meta)
        if ending.result_bytes is not None and ending.result_bytes <= self.config.push_bytes:
            result = await self._blobs.read(result_name(job_id, active.job.attempts))
            active.subscriber.push(encode_push(frame, result))
            return
        active.subscriber.tell(
            StatusFrame(
                job_id,
                frame.status,
                frame.description,
                self.result_link(active.job, active.base_url),
                frame.meta,
            )
        )

    def note(self, job_id: JobId, text: str) -> None:
        if (active := self._active.get(job_id)) is not None:
            active.note(text)

    async def _refresh_positions(self) -> None:
        """Tell moved positions, at most once a second for each model."""
        while True:
            await asyncio.sleep(POSITIONS_EVERY_S)
            models, self._stale_positions = self._stale_positions, set()
            for model in models:
                loading = self._scheduler.loading(model)
                for position, job in enumerate(self._scheduler.queue(model), start=1):
                    if (active := self._active.get(job)) is not None:
                        active.tell_waiting(position, loading=loading, any_agent=bool(self._agents))
