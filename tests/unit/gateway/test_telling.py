"""What those who wait are told: their place, and why nothing of theirs begins."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.links import LinkSigner
from edif.core.ids import GroupName, JobId, ModelId, UserName, new_job_id
from edif.core.job import Job
from edif.core.limits import DEFAULT_LIMITS
from edif.core.quota import Measure, Scope
from edif.core.users import Group, Role, User
from edif.gateway.fabric import Fabric, FabricConfig
from edif.models.catalogue import Catalogue, Deployment
from edif.records.sql_store import SqlRecordStore
from edif.wire import link
from edif.wire.link import ModelSpec

ONE, TWO = ModelId("m/one"), ModelId("m/two")
ADA, BOB, EVE = (UserName(name) for name in ("ada", "bob", "eve"))
LAB = GroupName("lab")


class Node:
    """A fabric with two models of three slots each, and an agent that begins what it is told to and ends nothing by itself."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.runs: dict[str, link.RunAttempt] = {}
        hello = link.Hello(link.LINK_VERSION, "a1", "host", 1, "3.11", {}, [], [])
        fabric.agent_joined(hello, self._hear)

    def _hear(self, message: link.ToAgent) -> None:
        match message:
            case link.StartReplica(replica=replica):
                self.fabric.heard("a1", link.ReplicaReady(replica, 1.0, 10))
            case link.RunAttempt(job=job):
                self.runs[job] = message

    async def send(self, owner: UserName, model: ModelId = ONE) -> JobId:
        job = Job(new_job_id(), owner, model, "key", False, {}, 1, time.time())
        await self.fabric.jobs.accept(job, subscriber=None, base_url="", received=time.monotonic())
        return job.id

    async def run(self, owner: UserName, model: ModelId = ONE) -> JobId:
        """A job that runs now."""
        job = await self.send(owner, model)
        async with asyncio.timeout(20):
            while job not in self.runs:
                await asyncio.sleep(0.01)
        return job

    def cancelled(self, job: JobId) -> None:
        """A running job ends."""
        run = self.runs.pop(job)
        self.fabric.heard("a1", link.AttemptEnded(job, run.attempt, "cancelled", "cancelled", "", "", link.Usage(), None, None))  # fmt: skip

    def told(self, job: JobId) -> str:
        return self.fabric._active[job].frame.description

    async def hears(self, job: JobId, sentence: str) -> None:
        """Returns when the job has been told something that begins so."""
        for _ in range(1000):
            self.fabric._runtime._positions.refresh(time.monotonic(), all_models=True)
            if self.told(job).startswith(sentence):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"told instead: {self.told(job)}")


@pytest.fixture
async def node(records: SqlRecordStore, blobs: FileBlobs) -> AsyncIterator[Node]:
    await records.add_group(Group(LAB, 1.0))
    for name in (ADA, BOB, EVE):
        await records.add_user(User(name, Role.RESEARCHER, 1.0, group=None if name == EVE else LAB))
    fabric = Fabric(
        FabricConfig(DEFAULT_LIMITS, push_bytes=0, lease_s=30.0, store_id="store"),
        records=records,
        blobs=blobs,
        catalogue=Catalogue([Deployment(ModelSpec(model), sealed_at_once=3) for model in (ONE, TWO)]),
        signer=LinkSigner(b"link key"),
    )
    await fabric.recover()
    runtime = asyncio.create_task(fabric.run())
    yield Node(fabric)
    runtime.cancel()
    await asyncio.gather(runtime, return_exceptions=True)


async def limit(node: Node, records: SqlRecordStore, scope: Scope, name: str, amount: float) -> None:
    await records.set_quota(scope, name, Measure.RUNNING_JOBS, amount)
    await node.fabric._runtime._look_at_people()


async def test_who_has_as_many_jobs_running_as_may_is_told_the_limit_and_the_place(
    node: Node, records: SqlRecordStore
) -> None:
    """A slot is free all the while; those of others keep their places."""
    await limit(node, records, Scope.USER, ADA, 1)
    runs = await node.run(ADA)
    waits, also = await node.send(ADA), await node.send(ADA)
    reason = "Your quota, 1 jobs at once, is used up (1 now). It frees when a job of yours ends. "
    await node.hears(waits, f"{reason}Position 1 in the queue of m/one; expected to begin in a few seconds.")
    await node.hears(also, f"{reason}Position 2 in the queue of m/one")
    await asyncio.gather(node.run(EVE), node.run(EVE))
    behind = await node.send(EVE)
    await node.hears(behind, "Position ")  # the first or the second: whose job ends first decides it
    node.cancelled(runs)
    async with asyncio.timeout(20):
        while waits not in node.runs and behind not in node.runs:
            await asyncio.sleep(0.01)


async def test_who_waits_for_jobs_on_another_model_is_told_so_and_has_no_place(
    node: Node, records: SqlRecordStore
) -> None:
    await limit(node, records, Scope.EACH_USER, "", 1)
    await node.run(ADA, TWO)
    waits, free = await node.send(ADA), await node.run(EVE)
    await node.hears(
        waits,
        "Your quota, 1 jobs at once, is used up (1 now). It frees when a job of yours ends. This job waits until then.",
    )
    assert "quota" not in node.told(free)


async def test_whose_group_has_as_many_jobs_running_as_may_is_told_that(
    node: Node, records: SqlRecordStore
) -> None:
    await limit(node, records, Scope.GROUP, LAB, 2)
    await node.run(ADA, TWO)
    await node.run(ADA, TWO)
    waits = await node.send(BOB)
    await node.hears(
        waits,
        "The quota of your group lab, 2 jobs at once, is used up (2 now). It frees when a job of your group lab ends. "
        "This job waits until then.",
    )
    await limit(node, records, Scope.GROUP, LAB, 3)
    async with asyncio.timeout(20):
        while waits not in node.runs:
            await asyncio.sleep(0.01)
