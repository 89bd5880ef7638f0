"""The gateway's runtime: feeds the scheduler with events and carries out what it decides.

One task works through one inbox, so that what is recorded, what is decided and what clients are told has one
order. Requests, sockets and agents run beside it and only put events in.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from edif import faults
from edif.blobs.links import LinkSigner
from edif.blobs.store import BlobStore, payload_name, result_name
from edif.core import errors
from edif.core.errors import EdifError, NotFound, Refused, StoreUnavailable
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId, UserName
from edif.core.job import Attempt, AttemptOutcome, ClientStatus, Ending, Job, JobState
from edif.core.limits import Limits
from edif.core.users import Identity
from edif.faults import Point
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.agents import AgentLink, AgentLinks
from edif.gateway.decisions import DecisionLog, Decisions
from edif.gateway.entitlements import Entitlements
from edif.gateway.sealing import Sealing
from edif.gateway.subscribers import Subscriber
from edif.gateway.telling import Positions, Results
from edif.models.catalogue import Catalogue, Deployment
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.scheduler.decide import PATIENCE_S
from edif.scheduler.journal import Header
from edif.telemetry import metrics
from edif.wire import link
from edif.wire.client_protocol import StatusFrame

log = structlog.get_logger()

T = TypeVar("T")

POSITIONS_EVERY_S = 1.0
PEOPLE_EVERY_S = 0.5
COUNT_EVERY_S = 600.0
STORE_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class FabricConfig:
    """What the runtime is told by the composition root.

    Attributes:
        limits: the bounds of every job.
        push_bytes: results up to this size are also sent on the status socket.
        lease_s: how long an agent may be away before its attempts are given to others.
        store_id: names the blob folder, so that agents on the same machine can recognise it.
        keep_deployed: models that are brought up at once and kept up.
        patience_s: how long a job waits behind higher classes before it goes with the highest.
        contact: whom users can ask for more quota.
    """

    limits: Limits
    push_bytes: int
    lease_s: float
    store_id: str
    keep_deployed: tuple[ModelId, ...] = ()
    patience_s: float = PATIENCE_S
    contact: str | None = None


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


@dataclass(frozen=True, slots=True)
class _Drain:
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _CountAnew:
    """Between two items no job is about to end: what is on record and what is counted belong to one moment."""


_Item = ev.Event | _Drain | _CountAnew | _FromAgent | _Joined | _Left | _LeaseEnded


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
        decision_log: DecisionLog | None = None,
    ) -> None:
        self.config = config
        self.catalogue = catalogue
        self.signer = signer
        self._records = records
        self._blobs = blobs
        models = tuple(ModelId(each.spec.id) for each in catalogue)
        self._decisions = Decisions(
            Header(models, f"r{secrets.token_hex(3)}", config.patience_s), decision_log
        )
        self._scheduler = self._decisions.scheduler
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._sealing = Sealing(config.limits)
        self._entitlements = Entitlements(records, catalogue, self._sealing, config.contact)
        self._active = ActiveJobs(self._entitlements.admission.ledger)
        self._agents = AgentLinks()
        self._away: dict[AgentId, float] = {}
        self._results = Results(blobs, signer, config.push_bytes)
        self._positions = Positions(self._scheduler, self._active, self._agents, self._entitlements)
        self._metadata_missing = {repo for each in catalogue for repo in (each.spec.id, *each.spec.adapters)}
        self._drained = asyncio.Event()
        self._count_asked = False
        self.alive = False

    # -- life ------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Take up every job that an earlier gateway left unfinished."""
        now = time.time()
        await self._look_at_people()
        await self._entitlements.count(now, self._active.payload_bytes)
        for job in await self._records.unfinished_jobs():
            active = ActiveJob(job, StatusFrame(job.id, ClientStatus.QUEUED))
            self._active.add(active)
            claim = self._entitlements.claim(job.owner, now)
            attempt = await self._records.current_attempt(job.id)
            if job.model not in self.catalogue:
                await self._end_unserved(active, attempt)
            elif attempt is None:
                self._post(ev.JobQueued(job.id, job.model, job.attempts, claim))
            else:
                agent, replica = AgentId(attempt.agent), ReplicaId(attempt.replica)
                self._post(ev.AttemptRemembered(job.id, job.model, attempt.number, agent, replica, claim))
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
            tasks.create_task(self._watch_people())
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
            case _Drain(done=done):
                await self._drain(done)
            case _CountAnew():
                self._count_asked = False
                with contextlib.suppress(StoreUnavailable):
                    await self._entitlements.count(time.time(), self._active.payload_bytes)
            case ev.AttemptRefused(job=job):
                await self._decide(item)
                if not self._scheduler.knows(job) and (active := self._active.get(job)) is not None:
                    self._active.forget(active)  # else it waits again, to be refused again
            case _:
                await self._decide(item)

    async def _drain(self, done: asyncio.Future[None]) -> None:
        await self._decide(ev.DrainAsked())
        self._positions.refresh(time.monotonic(), all_models=True)
        if not done.done():
            done.set_result(None)

    def _post(self, item: _Item) -> None:
        self._inbox.put_nowait(item)

    # -- what requests ask -----------------------------------------------------------------------------
    def check_model(self, model_key: str, env: dict[str, Any]) -> Deployment:
        return self.catalogue.match(model_key, env)

    async def accept(
        self, job: Job, *, subscriber: Subscriber | None, base_url: str, received: float
    ) -> StatusFrame:
        """Record a job whose payload is already in the blob store; it is durable when this returns.

        Raises:
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
            recorded = await self._recorded(job)
        except Exception:
            self._active.forget(active)
            await self._blobs.delete(payload_name(job.id))
            raise
        if recorded.id != job.id:
            self._active.forget(active)
            await self._blobs.delete(payload_name(job.id))
            return await self.status(recorded, base_url)
        faults.point(Point.JOB_RECORDED)
        self._post(ev.JobQueued(job.id, job.model, claim=self._entitlements.claim(job.owner, time.time())))
        metrics.JOBS_ACCEPTED.labels(job.model).inc()
        return frame

    async def _recorded(self, job: Job) -> Job:
        """
        Raises:
            StoreUnavailable: it is surely not on record.
        """
        add = partial(self._records.add_job, job, by=await self._entitlements.actor(job.owner))
        try:
            return await add()
        except StoreUnavailable as error:
            if not error.in_doubt:
                raise
            # It may be on record, and would then run one day: so it is asked for until it surely is, before anything is told.
            return await self._durably(add)

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
            raise Refused(errors.STATE_CONFLICT, f"The job {job.id} has already ended.")
        self._post(ev.CancelAsked(job.id))

    async def deploy(self, model: ModelId, by: UserName) -> None:
        await self._note("model.deploy_asked", self._known_model(model), by)
        self._post(ev.DeployAsked(model))

    async def evict(self, model: ModelId, by: UserName) -> None:
        await self._note("model.evict_asked", self._known_model(model), by)
        self._post(ev.EvictAsked(model))

    async def drain(self, by: UserName) -> None:
        """Begin no more jobs, until :meth:`resume` or the next start: what runs, ends; what waits, waits."""
        await self._note("fabric.drain_asked", "", by)
        await self.begin_drain()

    async def begin_drain(self) -> None:
        """Returns when nothing begins any more, and those who wait have been told."""
        self._drained.clear()
        draining = asyncio.get_running_loop().create_future()
        self._post(_Drain(draining))
        await draining

    async def drained(self) -> None:
        """Returns when no job runs any more, after :meth:`begin_drain`."""
        await self._drained.wait()

    async def resume(self, by: UserName) -> None:
        await self._note("fabric.resumed", "", by)
        self._post(ev.DrainEnded())

    async def _note(self, action: str, subject: str, by: UserName) -> None:
        await self._records.note(action, subject, by=await self._entitlements.actor(by))

    @property
    def draining(self) -> bool:
        return self._scheduler.draining

    def running(self) -> int:
        """How many jobs run now."""
        return self._scheduler.running()

    def result_retired(self, job: Job) -> None:
        """A job's result is not kept any more."""
        self._entitlements.admission.ledger.stores(job.owner, -(job.result_bytes or 0))

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
        self._decisions.handle(ev.AgentAway(agent))
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
            case link.ReplicaFailed(replica=replica, sentence=sentence, died=died):
                log.error("fabric.replica_failed", replica=replica, reason=sentence)
                await self._decide(ev.ReplicaFailed(ReplicaId(replica), sentence, died))
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
            outcome = await self._believed_outcome(message)
            if outcome is AttemptOutcome.LOST:
                log.warning(
                    "fabric.attempt_lost", job=job_id, attempt=message.attempt, reason=message.sentence
                )
                await self._decide(ev.AttemptLost(job_id, message.attempt, message.sentence))
            else:
                ending = active.ending(message)
                await self._charge(active, ending)
                # The replica gets its next job while this one's end is being recorded.
                await asyncio.gather(
                    self._end(active, ending, message.attempt, outcome),
                    self._decide(ev.AttemptOver(job_id, message.attempt, message.usage.run_s)),
                )
        self._agents.send(agent, link.OutcomeRecorded(message.job, message.attempt))

    async def _charge(self, active: ActiveJob, ending: Ending) -> None:
        """Count what the job used, before the next one is chosen: a quota that is used up now holds it."""
        owner, now = active.job.owner, time.time()
        self._active.charge(active, ending, self._entitlements.people.group_of(owner), now)
        for event in self._entitlements.spent(owner, now):
            await self._decide(event)

    async def _believed_outcome(self, message: link.AttemptEnded) -> AttemptOutcome:
        """What the agent says, but a completed attempt without a result in the store is a lost one."""
        name = result_name(message.job, message.attempt)
        if message.outcome is AttemptOutcome.COMPLETED and await self._blobs.size(name) is None:
            log.error("fabric.result_missing", job=message.job, attempt=message.attempt)
            return AttemptOutcome.LOST
        return message.outcome

    # -- what the scheduler decides --------------------------------------------------------------------
    async def _decide(self, event: ev.Event) -> None:
        for action in self._decisions.handle(event):
            await self._carry_out(action)
        if self._scheduler.draining and not self._scheduler.running():
            self._drained.set()

    async def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.BeginAttempt():
                await self._begin(action)
            case ev.RequeueJob(job=job, attempt=attempt):
                await self._durably(partial(self._records.lose_attempt, job, attempt))
                faults.point(Point.REQUEUE_RECORDED)
                active = self._active[job]
                self._active.enter(active, JobState.QUEUED)
                active.tell(ClientStatus.QUEUED, "The try was interrupted; it will be tried again.")
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
                active = self._active[job]
                active.tell_waiting(self._positions.wait(active, position, loading=loading))
            case ev.TellPositions(model=model):
                self._positions.moved(model)

    async def _begin(self, action: ev.BeginAttempt) -> None:
        now = time.time()
        attempt = Attempt(
            action.job, action.attempt, action.agent, action.replica, now, now + self.config.limits.time_s
        )
        # The agent is told while the attempt is being recorded. Should this process die in between, the agent's
        # attempt is not on record, so it is unwanted when the agent returns, and the job is tried afresh.
        recording = asyncio.create_task(self._durably(partial(self._records.begin_attempt, attempt)))
        active = self._active[action.job]
        self._active.enter(active, JobState.RUNNING, attempts=action.attempt)
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
        faults.point(Point.ATTEMPT_RECORDED)

    async def _watch_people(self) -> None:
        """Notice within a second what an operator changed, and which quotas are used up or fresh again."""
        counted = time.monotonic()
        while True:
            await asyncio.sleep(PEOPLE_EVERY_S)
            with contextlib.suppress(StoreUnavailable):
                await self._look_at_people()
            due = self._entitlements.miscounted or time.monotonic() - counted > COUNT_EVERY_S
            if due and not self._count_asked:  # one is enough, however long the inbox is
                counted = time.monotonic()
                self._count_asked = True
                self._post(_CountAnew())

    async def _look_at_people(self) -> None:
        for event in await self._entitlements.look(time.time()):
            self._post(event)

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
        job, now = active.job, time.time()
        recorded = await self._durably(
            partial(self._records.end_job, job.id, ending, now=now, attempt=attempt, outcome=outcome)
        )
        if not recorded:
            self._active.forget(active)
            log.warning("fabric.second_ending", job=job.id, state=ending.state)
            return
        faults.point(Point.END_RECORDED)
        self._active.end(active, ending)
        metrics.JOBS_ENDED.labels(job.model, ending.state.value).inc()
        log.info(
            "job.ended", job=job.id, owner=job.owner, model=job.model, state=ending.state.value, **ending.meta
        )
        await self._results.tell(active, ending)
        faults.point(Point.END_TOLD)
        await self._blobs.delete(payload_name(job.id))

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
    def note(self, job_id: JobId, text: str) -> None:
        if (active := self._active.get(job_id)) is not None:
            active.note(text)

    async def _refresh_positions(self) -> None:
        """Let waiting jobs age, and tell moved positions, at most once a second."""
        while True:
            await asyncio.sleep(POSITIONS_EVERY_S)
            self._post(ev.Tick())
            self._positions.refresh(time.monotonic())
