"""The gateway's runtime with all its parts, and its life.

Requests and sockets ask :class:`Jobs`, :class:`Steering` and :class:`Overview`, which read, record, and put events into
one inbox. The :class:`Runtime` works through it, :class:`Hearing` understands agents, the :class:`Conductor` tells
the scheduler and carries out what it decides.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from edif.blobs.links import Links, LinkSigner
from edif.blobs.store import BlobStore
from edif.core.ids import AgentId, ModelId
from edif.core.job import Job, stored_bytes
from edif.core.limits import Limits
from edif.gateway.active import ActiveJobs
from edif.gateway.agents import AgentLink, AgentLinks
from edif.gateway.conductor import Conductor
from edif.gateway.decisions import DecisionLog, Decisions
from edif.gateway.entitlements import Entitlements
from edif.gateway.hearing import Hearing
from edif.gateway.jobs import Jobs
from edif.gateway.overview import Overview
from edif.gateway.runtime import FromAgent, Inbox, Item, Joined, Left, Runtime
from edif.gateway.sealing import Sealing
from edif.gateway.steering import Steering
from edif.gateway.stored_results import StoredResults
from edif.gateway.telling import Positions, Results
from edif.gateway.unwanted import Unwanted
from edif.models.catalogue import Catalogue
from edif.records.store import RecordStore
from edif.scheduler.decide import PATIENCE_S
from edif.scheduler.journal import Header
from edif.wire import link


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

    Attributes:
        jobs: what is asked about one job.
        steering: what an operator asks of models and of the fabric as a whole.
        overview: what is served, by whom, and how far it is.
        stored_results: what is asked about results in the blob store.
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
        self._unwanted = Unwanted(blobs)
        self._inbox = Inbox()
        models = tuple(ModelId(each.spec.id) for each in catalogue)
        decisions = Decisions(Header(models, f"r{secrets.token_hex(3)}", config.patience_s), decision_log)
        sealing = Sealing(config.limits)
        self._entitlements = Entitlements(records, catalogue, sealing, config.contact)
        self._active = ActiveJobs(self._entitlements.admission.ledger)
        self._agents = AgentLinks()
        results = Results(blobs, links or signer, config.push_bytes, records.job)
        self.stored_results = StoredResults(records, blobs, self.result_retired)
        positions = Positions(decisions.scheduler, self._active, self._agents, self._entitlements)
        conductor = Conductor(
            decisions,
            limits=config.limits,
            records=records,
            unwanted=self._unwanted,
            catalogue=catalogue,
            signer=signer,
            links=links or signer,
            sealing=sealing,
            active=self._active,
            agents=self._agents,
            results=results,
            positions=positions,
            post=self._post,
        )
        self._runtime = Runtime(
            self._inbox,
            conductor,
            Hearing(
                conductor,
                blobs=blobs,
                active=self._active,
                agents=self._agents,
                entitlements=self._entitlements,
                results=results,
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
        self.jobs = Jobs(
            records=records,
            unwanted=self._unwanted,
            active=self._active,
            entitlements=self._entitlements,
            results=results,
            stored_results=self.stored_results,
            post=self._post,
        )
        self.steering = Steering(
            records=records,
            catalogue=catalogue,
            entitlements=self._entitlements,
            conductor=conductor,
            post=self._post,
        )
        self.overview = Overview(decisions.scheduler, catalogue, sealing, self._agents)

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

    def result_retired(self, job: Job) -> None:
        """A job's result is not kept any more."""
        self._entitlements.admission.ledger.stores(job.owner, -stored_bytes(job))

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
