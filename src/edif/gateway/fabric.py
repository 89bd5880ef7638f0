"""What requests and sockets ask of the gateway's runtime: they read, record, and put events into its inbox.

Here its parts are put together: the :class:`Runtime` works through the inbox, :class:`Hearing` understands
agents, the :class:`Conductor` tells the scheduler and carries out what it decides.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from edif import faults
from edif.blobs.links import Links, LinkSigner
from edif.blobs.store import BlobStore, payload_name
from edif.core import errors
from edif.core.errors import NotFound, Refused, StoreUnavailable
from edif.core.ids import AgentId, JobId, ModelId, UserId, UserName
from edif.core.job import ClientStatus, Job, JobState, stored_bytes
from edif.core.limits import Limits
from edif.core.users import Identity
from edif.faults import Point
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.agents import AgentLink, AgentLinks
from edif.gateway.conductor import Conductor, durably
from edif.gateway.decisions import DecisionLog, Decisions
from edif.gateway.entitlements import Entitlements
from edif.gateway.hearing import Hearing
from edif.gateway.runtime import Drain, FromAgent, Inbox, Item, Joined, Left, Runtime
from edif.gateway.sealing import Sealing
from edif.gateway.stored_results import StoredResults
from edif.gateway.subscribers import Subscriber
from edif.gateway.telling import Positions, Results
from edif.gateway.unwanted import Unwanted
from edif.models.catalogue import Catalogue, Deployment
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.scheduler.decide import PATIENCE_S
from edif.scheduler.journal import Header
from edif.telemetry import metrics
from edif.wire import link
from edif.wire.client_protocol import StatusFrame

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FabricConfig:
    """What the runtime is told by the composition root.

    Attributes:
        limits: the bounds of every job.
        push_bytes: results up to this size are also sent on the status socket.
        lease_s: how long an agent may be away before its attempts are given to others.
        store_id: names the blob store, so that agents that reach it themselves can recognise it.
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


class Fabric:
    """Jobs in, decisions carried out, statuses told.

    Args:
        links: who makes the links by which blobs are fetched, if not the gateway's own ``signer``.
    """

    def __init__(
        self,
        config: FabricConfig,
        *,
        records: RecordStore,
        blobs: BlobStore,
        catalogue: Catalogue,
        signer: LinkSigner,
        links: Links | None = None,
        decision_log: DecisionLog | None = None,
    ) -> None:
        self.config = config
        self.catalogue = catalogue
        self.signer = signer
        self._records = records
        self._unwanted = Unwanted(blobs)
        self._inbox = Inbox()
        models = tuple(ModelId(each.spec.id) for each in catalogue)
        decisions = Decisions(Header(models, f"r{secrets.token_hex(3)}", config.patience_s), decision_log)
        self._scheduler = decisions.scheduler
        self._sealing = Sealing(config.limits)
        self._entitlements = Entitlements(records, catalogue, self._sealing, config.contact)
        self._active = ActiveJobs(self._entitlements.admission.ledger)
        self._agents = AgentLinks()
        self._results = Results(blobs, links or signer, config.push_bytes, records.job)
        self.stored_results = StoredResults(records, blobs, self.result_retired)
        positions = Positions(self._scheduler, self._active, self._agents, self._entitlements)
        self._conductor = Conductor(
            decisions,
            limits=config.limits,
            records=records,
            unwanted=self._unwanted,
            catalogue=catalogue,
            signer=signer,
            links=links or signer,
            sealing=self._sealing,
            active=self._active,
            agents=self._agents,
            results=self._results,
            positions=positions,
            post=self._post,
        )
        self._runtime = Runtime(
            self._inbox,
            self._conductor,
            Hearing(
                self._conductor,
                blobs=blobs,
                active=self._active,
                agents=self._agents,
                entitlements=self._entitlements,
                results=self._results,
            ),
            records=records,
            catalogue=catalogue,
            active=self._active,
            agents=self._agents,
            entitlements=self._entitlements,
            positions=positions,
            lease_s=config.lease_s,
            store_id=config.store_id,
            keep_deployed=config.keep_deployed,
        )

    # -- life ------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Take up every job that an earlier gateway left unfinished, and its drain if it was to begin none."""
        await self._runtime.recover()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._unwanted.keep_trying())
            await self._runtime.run()

    @property
    def alive(self) -> bool:
        """Whether :meth:`run` works."""
        return self._runtime.alive

    def _post(self, item: Item) -> None:
        self._inbox.put_nowait(item)

    # -- what requests ask -----------------------------------------------------------------------------
    def check_model(self, model_key: str, env: dict[str, Any]) -> Deployment:
        return self.catalogue.match(model_key, env)

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
            raise Refused(errors.STATE_CONFLICT, f"The job {job.id} has already ended.")
        self._post(ev.CancelAsked(job.id))

    async def revoke_links(self, job: Job, by: UserName) -> Job:
        """See :meth:`StoredResults.revoke_links`; the job as it is on record then."""
        return await self.stored_results.revoke_links(job, await self._entitlements.actor(by))

    async def delete_result(self, job: Job, by: UserName) -> None:
        """See :meth:`StoredResults.delete`."""
        await self.stored_results.delete(job, await self._entitlements.actor(by))

    async def deploy(self, model: ModelId, by: UserName) -> None:
        await self._note("model.deploy_asked", self._known_model(model), by)
        self._post(ev.DeployAsked(model))

    async def evict(self, model: ModelId, by: UserName) -> None:
        await self._note("model.evict_asked", self._known_model(model), by)
        self._post(ev.EvictAsked(model))

    async def drain(self, by: UserName) -> None:
        """Begin no more jobs until :meth:`resume`, over restarts: what runs, ends; what waits, waits."""
        await self._records.set_draining(True, by=await self._entitlements.actor(by))
        await self.begin_drain()

    async def begin_drain(self) -> None:
        """Drain until this process ends. Returns when nothing begins any more, and those who wait have been told."""
        self._conductor.drained.clear()
        draining = asyncio.get_running_loop().create_future()
        self._post(Drain(draining))
        await draining

    async def drained(self) -> None:
        """Returns when no job runs any more, after :meth:`begin_drain`."""
        await self._conductor.drained.wait()

    async def resume(self, by: UserName) -> None:
        await self._records.set_draining(False, by=await self._entitlements.actor(by))
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
        self._entitlements.admission.ledger.stores(job.owner, -stored_bytes(job))

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
                    "merge": deployment.merge.value,
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

    def note(self, job_id: JobId, text: str) -> None:
        """Show a LOG line to whoever listens to this job."""
        if (active := self._active.get(job_id)) is not None:
            active.note(text)

    # -- what agents say -------------------------------------------------------------------------------
    def agent_joined(self, hello: link.Hello, send: Callable[[link.ToAgent], None]) -> Callable[[], None]:
        """An agent's link is up. Returns what to call when it is down."""
        joined = AgentLink(hello, send)
        self._post(Joined(joined))
        return lambda: self._post(Left(joined))

    def heard(self, agent: str, message: link.ToGateway) -> None:
        self._post(FromAgent(AgentId(agent), message))

    def metadata_arrived(self, repo: str) -> None:
        """This repository's metadata need not be asked for again; the model may have changed since an earlier run."""
        self._runtime.metadata_arrived(repo)
