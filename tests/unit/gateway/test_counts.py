"""What the gateway counts for users and groups is what is on record, whatever happens to jobs, people and results."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.links import LinkSigner
from edif.blobs.store import payload_name, result_name
from edif.core.errors import Refused
from edif.core.ids import ANONYMOUS, GroupName, ModelId, UserName, new_job_id
from edif.core.job import FINAL_STATES, AttemptOutcome, Job
from edif.core.limits import DEFAULT_LIMITS
from edif.core.quota import Measure, Scope, month_begins
from edif.core.users import Group, Role, User
from edif.gateway import runtime
from edif.gateway.fabric import Fabric, FabricConfig
from edif.gateway.ledger import Ledger
from edif.gateway.retention import Retention, retire_some
from edif.gateway.runtime import CountAnew
from edif.models.catalogue import Catalogue, Deployment
from edif.records.sql_store import SqlRecordStore
from edif.wire import link
from edif.wire.link import ModelSpec
from tests.sizes import SIZES

USERS = [UserName(name) for name in ("ada", "bob", "eve")]
LAB, COURSE = GroupName("lab"), GroupName("course")
ONE, TWO = ModelId("m/one"), ModelId("m/two")
STEPS = 100
AT_ONCE = Retention(0.0, 1e9)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PEOPLE_EVERY_S", 0.001)


class Site:
    """A fabric whose agent, users, operator and clock are a die."""

    def __init__(self, seed: int, records: SqlRecordStore, blobs: FileBlobs) -> None:
        self.die = random.Random(seed)
        self.records = records
        self.blobs = blobs
        self.told: list[link.ToAgent] = []
        self.answered = 0
        self.running: list[link.RunAttempt] = []
        self.leave: Callable[[], None] | None = None

    async def start(self, *models: ModelId) -> None:
        """A gateway that was killed and comes up again, or the first one."""
        self.fabric = Fabric(
            FabricConfig(DEFAULT_LIMITS, push_bytes=0, lease_s=0.0, store_id="store"),
            records=self.records,
            blobs=self.blobs,
            catalogue=Catalogue([Deployment(ModelSpec(model), sealed_at_once=3) for model in models]),
            signer=LinkSigner(b"link key"),
        )
        await self.fabric.recover()
        self.runtime = asyncio.create_task(self.fabric.run())
        self.told, self.answered, self.running, self.leave = [], 0, [], None

    async def stop(self) -> None:
        self.runtime.cancel()
        await asyncio.gather(self.runtime, return_exceptions=True)
        # A write that its death cut short is done or undone when the next gateway may write: it is not so for a task.
        await self.records.note("test.stopped", "", by="fabric")

    async def settled(self) -> None:
        """Returns when all that was asked for is done, and nothing begins."""
        self.answer()
        await self.fabric.steering.begin_drain()
        while self.fabric._runtime._away:  # leases, of no length here, end by a timer
            await asyncio.sleep(0)
        await self.fabric.steering.begin_drain()

    def answer(self) -> None:
        """The agent is there as a rule, and brings up what it is told to."""
        if self.leave is None and self.die.random() < 0.7:
            self.agent_joins()
        while self.answered < len(self.told):
            message = self.told[self.answered]
            self.answered += 1
            if isinstance(message, link.StartReplica):
                self.fabric.heard("a1", link.ReplicaReady(message.replica, 1.0, 10))
            if isinstance(message, link.RunAttempt):
                self.running.append(message)

    # -- what can happen -------------------------------------------------------------------------------
    async def job_comes(self) -> None:
        owner = self.die.choice(USERS)
        key = self.die.choice([None, None, "again"])
        job = Job(new_job_id(), owner, self.die.choice([ONE, TWO]), "k", False, {}, self.die.randrange(9), 1.0, client_key=key)  # fmt: skip
        if job.model in self.fabric.catalogue:
            self.blobs.path(payload_name(job.id)).write_bytes(b"p")
            try:
                await self.fabric.jobs.accept(job, subscriber=None, base_url="", received=time.monotonic())
            except Refused:
                assert await self.blobs.size(payload_name(job.id)) is None

    async def attempt_ends(self) -> None:
        if not self.running:
            return
        run = self.running.pop(self.die.randrange(len(self.running)))
        outcome = self.die.choice(list(AttemptOutcome))
        if self.die.random() < 0.8:  # else it says so, and there is none
            self.blobs.path(result_name(run.job, run.attempt)).write_bytes(b"r")
        usage = link.Usage(run_s=1.0, charged_s=self.die.random())
        ended = link.AttemptEnded(
            run.job, run.attempt, outcome, None, "", "", usage, self.die.randrange(99), ""
        )
        for _ in range(self.die.choice([1, 1, 2])):
            self.fabric.heard("a1", ended)

    async def job_is_cancelled(self) -> None:
        if found := await self.records.unfinished_jobs():
            job = self.die.choice(found)
            await self.fabric.jobs.cancel(job, job.owner)

    def agent_joins(self) -> None:
        hello = link.Hello(link.LINK_VERSION, "a1", "host", 1, "3.11", {}, [], [])
        self.leave = self.fabric.agent_joined(hello, self.told.append)

    async def agent_leaves(self) -> None:
        if self.leave is not None:
            self.leave()
            self.leave, self.running = None, []

    async def replica_dies(self) -> None:
        if self.running:
            self.fabric.heard("a1", link.ReplicaFailed(self.die.choice(self.running).replica, "It died."))

    async def results_are_retired(self) -> None:
        await retire_some(self.records, self.blobs, AT_ONCE, self.fabric.result_retired, time.time())

    async def links_are_revoked(self) -> None:
        if job := await self._an_ended_job():
            with contextlib.suppress(Refused):
                await self.fabric.jobs.revoke_links(job, job.owner)

    async def result_is_deleted(self) -> None:
        if job := await self._an_ended_job():
            await self.fabric.jobs.delete_result(job, job.owner)

    async def _an_ended_job(self) -> Job | None:
        found = await self.records.jobs(states=sorted(FINAL_STATES))
        return self.die.choice(found) if found else None

    async def gateway_dies(self) -> None:
        await self.stop()
        await self.start(*self.die.choice([(ONE, TWO), (ONE, TWO), (ONE,)]))

    async def user_changes_group(self) -> None:
        name = self.die.choice(USERS)
        known = await self.records.user(name)
        if known is None:
            await self.records.add_user(User(name, Role.RESEARCHER, 1.0))
        else:
            group = self.die.choice([LAB, COURSE, None])
            await self.records.change_user(User(name, Role.RESEARCHER, 1.0, group=group, id=known.id))
        await self.seen()

    async def user_is_removed(self) -> None:
        await self.records.remove_user(self.die.choice(USERS), 1.0)
        await self.seen()

    async def seen(self) -> None:
        revision = await self.records.people_revision()
        while self.fabric._entitlements.people.revision != revision:
            await asyncio.sleep(0.001)

    # -- done by other processes: counted anew afterwards ----------------------------------------------
    async def results_are_retired_by_a_command(self) -> None:
        await retire_some(self.records, self.blobs, AT_ONCE, lambda job: None, time.time())

    async def person_is_erased(self) -> None:
        name = self.die.choice(USERS)
        if not any(job.owner == name for job in await self.records.unfinished_jobs()):
            await self.records.erase_user(name, UserName(f"erased-{new_job_id()}"))
            await self.seen()

    # -- what must hold --------------------------------------------------------------------------------
    async def assert_counted_as_recorded(self) -> None:
        now = time.time()
        ledger = self.fabric._entitlements.admission.ledger
        people = self.fabric._entitlements.people
        recount = Ledger(lambda group: people.members.get(group, ()))
        recount.count(await self.records.usage(since=month_begins(now)), await self.records.stored_bytes())
        for job in await self.records.unfinished_jobs():
            recount.enters(job.owner, job.state)
            recount.stores(job.owner, job.payload_bytes)
        for user in (*USERS, ANONYMOUS):
            assert ledger.user_uses(user, now) == pytest.approx(recount.user_uses(user, now)), user
        for group in (LAB, COURSE):
            assert ledger.group_uses(group, now) == pytest.approx(recount.group_uses(group, now)), group


async def play(site: Site, *events: Callable[[], Awaitable[None]], anew: bool = False) -> None:
    await site.records.add_group(Group(LAB, 1.0))
    await site.records.add_group(Group(COURSE, 1.0))
    for measure, amount in (
        (Measure.QUEUED_JOBS, 5),
        (Measure.SECONDS_PER_DAY, 3),
        (Measure.STORED_BYTES, 300),
    ):
        await site.records.set_quota(Scope.EACH_USER, "", measure, amount)
    await site.records.set_quota(Scope.GROUP, LAB, Measure.RUNNING_JOBS, 2)
    await site.start(ONE, TWO)
    try:
        for _ in range(STEPS):
            await site.die.choice([*events, *(2 * [site.job_comes]), *(8 * [site.attempt_ends])])()
            if anew:
                site.fabric._post(CountAnew())
            await site.settled()
            assert not site.runtime.done()
            await site.assert_counted_as_recorded()
            await site.fabric.steering.resume(ANONYMOUS)
            await site.fabric.steering.begin_drain()
            await site.fabric.steering.resume(ANONYMOUS)
    finally:
        await site.stop()


def own_events(site: Site) -> list[Callable[[], Awaitable[None]]]:
    return [
        site.job_is_cancelled,
        site.agent_leaves,
        site.replica_dies,
        site.results_are_retired,
        site.links_are_revoked,
        site.result_is_deleted,
        site.gateway_dies,
        site.user_changes_group,
        site.user_is_removed,
    ]


SEEDS = pytest.mark.parametrize("seed", range(SIZES.races))


@SEEDS
async def test_counts_never_leave_the_record(seed: int, records: SqlRecordStore, blobs: FileBlobs) -> None:
    site = Site(seed, records, blobs)
    await play(site, *own_events(site))
    ended = {job.state for job in await records.jobs()} & FINAL_STATES
    assert len(ended) >= 2, "too little happened"  # as a rule it is all three


@SEEDS
async def test_counts_return_to_the_record_whatever_other_processes_do(
    seed: int, records: SqlRecordStore, blobs: FileBlobs
) -> None:
    site = Site(seed, records, blobs)
    others = [site.results_are_retired_by_a_command, site.person_is_erased]
    await play(site, *own_events(site), *others, anew=True)


async def test_results_that_a_command_deleted_are_counted_off_in_time(
    records: SqlRecordStore, blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "COUNT_EVERY_S", 0.0)
    site = Site(0, records, blobs)
    await a_result_of(site, USERS[0])
    await site.results_are_retired_by_a_command()
    await until(lambda: site.fabric.jobs.uses(USERS[0])["user"]["stored_bytes"]["used"] == 0)
    await site.stop()


async def test_a_namesake_begins_with_nothing(records: SqlRecordStore, blobs: FileBlobs) -> None:
    """The name is free again once it is erased; the gateway has run all the while."""
    site = Site(0, records, blobs)
    ada = USERS[0]
    await records.add_user(User(ada, Role.RESEARCHER, 1.0))
    await a_result_of(site, ada)
    used = site.fabric.jobs.uses(ada)["user"]
    assert used["seconds_per_day"]["used"] == 2.0
    assert used["stored_bytes"]["used"] == 7
    await records.remove_user(ada, 2.0)
    await records.erase_user(ada, UserName("erased-1"))
    await records.add_user(User(ada, Role.RESEARCHER, 3.0))
    await until(lambda: all(row["used"] == 0 for row in site.fabric.jobs.uses(ada)["user"].values()))
    await site.stop()


async def a_result_of(site: Site, owner: UserName) -> None:
    job = Job(new_job_id(), owner, ONE, "k", False, {}, 1, 1.0)
    site.blobs.path(result_name(job.id, 1)).write_bytes(b"result")
    await site.start(ONE)
    site.agent_joins()
    await site.fabric.jobs.accept(job, subscriber=None, base_url="", received=0.0)
    await until(lambda: site.answer() or bool(site.running))
    usage = link.Usage(run_s=3.0, charged_s=2.0)
    done = link.AttemptEnded(job.id, 1, AttemptOutcome.COMPLETED, None, "", "", usage, 7, "")
    site.fabric.heard("a1", done)
    await until(lambda: any(isinstance(told, link.OutcomeRecorded) for told in site.told))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)
