"""The gateway's one line of work: an inbox, and one task that works through it.

So what is recorded, what is decided and what clients are told has one order. Requests, sockets and agents run
beside it and only put items in.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import structlog

from edif.core import errors
from edif.core.errors import Refused, StoreUnavailable
from edif.core.ids import AgentId, JobId, ModelId, ReplicaId
from edif.core.job import Attempt, ClientStatus
from edif.gateway.active import ActiveJob, ActiveJobs
from edif.gateway.agents import AgentLink, AgentLinks
from edif.gateway.conductor import Conductor
from edif.gateway.entitlements import Entitlements
from edif.gateway.hearing import Hearing
from edif.gateway.telling import Positions
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.scheduler import events as ev
from edif.wire import link
from edif.wire.client_protocol import StatusFrame

log = structlog.get_logger()

POSITIONS_EVERY_S = 1.0
PEOPLE_EVERY_S = 0.5
COUNT_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class FromAgent:
    agent: AgentId
    message: link.ToGateway


@dataclass(frozen=True, slots=True)
class Joined:
    link: AgentLink


@dataclass(frozen=True, slots=True)
class Left:
    link: AgentLink


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    agent: AgentId
    away_since: float


@dataclass(frozen=True, slots=True)
class Drain:
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class CountAnew:
    """Between two items no job is about to end: what is on record and what is counted belong to one moment."""


Item = ev.Event | Drain | CountAnew | FromAgent | Joined | Left | LeaseEnded
Inbox = asyncio.Queue[Item]


class Runtime:
    """
    Args:
        lease_s: how long an agent may be away before its attempts are given to others.
        store_id: names the blob folder, so that agents on the same machine can recognise it.
        keep_deployed: models that are brought up at once and kept up.
    """

    def __init__(
        self,
        inbox: Inbox,
        conductor: Conductor,
        hearing: Hearing,
        *,
        records: RecordStore,
        catalogue: Catalogue,
        active: ActiveJobs,
        agents: AgentLinks,
        entitlements: Entitlements,
        positions: Positions,
        lease_s: float,
        store_id: str,
        keep_deployed: tuple[ModelId, ...],
    ) -> None:
        self.alive = False
        self._inbox = inbox
        self._conductor = conductor
        self._scheduler = conductor.scheduler
        self._hearing = hearing
        self._records = records
        self._catalogue = catalogue
        self._active = active
        self._agents = agents
        self._entitlements = entitlements
        self._positions = positions
        self._lease_s = lease_s
        self._store_id = store_id
        self._keep_deployed = keep_deployed
        self._away: dict[AgentId, float] = {}
        self._metadata_missing = {repo for each in catalogue for repo in (each.spec.id, *each.spec.adapters)}
        self._count_asked = False

    # -- life ------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Take up every job that an earlier gateway left unfinished, and its drain if it was to begin none."""
        now = time.time()
        if await self._records.draining():
            log.warning("fabric.drained", next_step="It begins no jobs until `edif resume`.")
            self._post(ev.DrainAsked())
        await self._look_at_people()
        await self._entitlements.count(now, self._active.payload_bytes)
        for job in await self._records.unfinished_jobs():
            active = ActiveJob(job, StatusFrame(job.id, ClientStatus.QUEUED))
            self._active.add(active)
            claim = self._entitlements.claim(job.owner, now)
            attempt = await self._records.current_attempt(job.id)
            if job.model not in self._catalogue:
                await self._end_unserved(active, attempt)
            elif attempt is None:
                self._post(ev.JobQueued(job.id, job.model, job.attempts, claim))
            else:
                agent, replica = AgentId(attempt.agent), ReplicaId(attempt.replica)
                self._post(ev.AttemptRemembered(job.id, job.model, attempt.number, agent, replica, claim))
                self._start_lease(agent)
            if job.cancel_asked:
                self._post(ev.CancelAsked(job.id))
        for model in self._keep_deployed:
            self._post(ev.DeployAsked(model))

    async def _end_unserved(self, active: ActiveJob, attempt: Attempt | None) -> None:
        sentence = f"The model {active.job.model!r} is no longer served here."
        error = Refused(errors.MODEL_NOT_SERVED, sentence)
        await self._conductor.fail(active.job.id, error, None if attempt is None else attempt.number)

    async def run(self) -> None:
        """Work through the inbox until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refresh_positions())
            tasks.create_task(self._watch_people())
            self.alive = True
            try:
                while True:
                    item = await self._inbox.get()
                    await self._work(item)
            finally:
                self.alive = False

    async def _work(self, item: Item) -> None:
        match item:
            case FromAgent(agent=agent, message=message):
                await self._hearing.hear(agent, message)
            case Joined(link=joined):
                await self._agent_joined(joined)
            case Left(link=left):
                await self._agent_left(left)
            case LeaseEnded(agent=agent, away_since=since):
                if self._away.get(agent) == since:
                    del self._away[agent]
                    log.warning("fabric.agent_lost", agent=agent)
                    await self._conductor.decide(ev.AgentLost(agent))
            case Drain(done=done):
                await self._drain(done)
            case CountAnew():
                self._count_asked = False
                with contextlib.suppress(StoreUnavailable):
                    await self._entitlements.count(time.time(), self._active.payload_bytes)
            case ev.AttemptRefused(job=job):
                await self._conductor.decide(item)
                if not self._scheduler.knows(job) and (active := self._active.get(job)) is not None:
                    self._active.forget(active)  # else it waits again, to be refused again
            case _:
                await self._conductor.decide(item)

    async def _drain(self, done: asyncio.Future[None]) -> None:
        await self._conductor.decide(ev.DrainAsked())
        self._positions.refresh(time.monotonic(), all_models=True)
        if not done.done():
            done.set_result(None)

    def _post(self, item: Item) -> None:
        self._inbox.put_nowait(item)

    # -- agents ----------------------------------------------------------------------------------------
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
        joined.send(link.Welcome("edif", self._store_id, unwanted))
        for spec in (each.spec for each in self._catalogue):
            if not self._metadata_missing.isdisjoint((spec.id, *spec.adapters)):
                joined.send(link.SendMetadata(spec))
        log.info("fabric.agent_joined", agent=agent, host=hello.host, replicas=len(hello.replicas))
        replicas = tuple(
            ev.HeldReplica(ReplicaId(held.replica), ModelId(held.model), held.ready)
            for held in hello.replicas
        )
        running = frozenset((JobId(ref.job), ref.attempt) for ref in hello.running)
        await self._conductor.decide(ev.AgentJoined(agent, replicas, running))

    async def _agent_left(self, left: AgentLink) -> None:
        if not self._agents.leave(left):
            return
        agent = left.agent
        await self._conductor.decide(ev.AgentAway(agent))
        log.warning("fabric.agent_away", agent=agent)
        self._start_lease(agent)

    def _start_lease(self, agent: AgentId) -> None:
        since = time.monotonic()
        self._away[agent] = since
        asyncio.get_running_loop().call_later(self._lease_s, self._post, LeaseEnded(agent, since))

    # -- what goes by time -----------------------------------------------------------------------------
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
                self._post(CountAnew())

    async def _look_at_people(self) -> None:
        for event in await self._entitlements.look(time.time()):
            self._post(event)

    async def _refresh_positions(self) -> None:
        """Let waiting jobs age, and tell moved positions, at most once a second."""
        while True:
            await asyncio.sleep(POSITIONS_EVERY_S)
            self._post(ev.Tick())
            self._positions.refresh(time.monotonic())
