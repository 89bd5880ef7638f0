"""What the runtime does with messages that come late: found while the scheduler was tested."""

import asyncio
import time
from typing import Any

import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.store import kept_name, kept_of, result_name
from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import ANONYMOUS, JobId, UserName, new_job_id
from edif.core.job import AttemptOutcome, Extras, Job, JobState
from edif.core.users import Role, User
from edif.gateway.fabric import Fabric
from edif.gateway.subscribers import Subscriber
from edif.records.sql_store import SqlRecordStore
from edif.wire import link
from tests.support.replay import read_frame
from tests.unit.gateway.agent_stub import ONE, AgentStub, accept


async def state(records: SqlRecordStore, job: JobId) -> JobState:
    found = await records.job(job)
    assert found is not None
    return found.state


async def test_job_runs_and_its_end_is_recorded(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore
) -> None:
    agent.join()
    job = await accept(fabric)
    replica = (await agent.hears(link.StartReplica)).replica
    agent.say(link.ReplicaReady(replica, 1.0, 10))
    run = await agent.hears(link.RunAttempt)
    assert (run.job, run.attempt, run.replica) == (job, 1, replica)
    agent.ended(job, 1, "completed")
    await agent.hears(link.OutcomeRecorded)
    assert await state(records, job) is JobState.COMPLETED


async def test_the_line_is_the_sites_unless_the_client_says_its_own(agent: AgentStub, fabric: Fabric) -> None:
    agent.join()
    for extras in (Extras(), Extras(packed=True, link_bytes_per_s=3e6)):
        await accept(fabric, extras=extras)
    replica = (await agent.hears(link.StartReplica)).replica
    agent.say(link.ReplicaReady(replica, 1.0, 10))
    first = await agent.hears(link.RunAttempt)
    assert first.extras == Extras(link_bytes_per_s=fabric.config.limits.link_bytes_per_s)
    agent.ended(first.job, 1, "completed")
    assert (await agent.hears(link.RunAttempt, 2)).extras == Extras(packed=True, link_bytes_per_s=3e6)


async def test_how_a_result_travels_is_told(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore
) -> None:
    agent.join()
    forms = (link.Usage(), link.Usage(packed=True), link.Usage(rounded_tensors=3))
    jobs = [await accept(fabric, extras=Extras(rounding="bfloat16")) for _ in forms]
    replica = (await agent.hears(link.StartReplica)).replica
    agent.say(link.ReplicaReady(replica, 1.0, 10))
    told = []
    for number, (job, usage) in enumerate(zip(jobs, forms, strict=True), start=1):
        await agent.hears(link.RunAttempt, number)
        (agent.blobs.folder / result_name(job, 1)).write_bytes(b"result")
        done = AttemptOutcome.COMPLETED
        agent.say(link.AttemptEnded(job, 1, done, None, "", "", usage, 6, "0" * 64))
        await agent.hears(link.OutcomeRecorded, number)
        found = await records.job(job)
        assert found is not None
        told.append({name: found.meta.get(name) for name in ("packed", "rounding", "rounded_tensors")})
    assert [list(each.values()) for each in told] == [
        [None, None, None],
        [True, None, None],
        [None, "bfloat16", 3],
    ]


def _told(subscriber: Subscriber) -> list[dict[str, Any]]:
    frames = [subscriber._frames.get_nowait() for _ in range(subscriber._frames.qsize())]
    return [read_frame(frame)[0] for frame in frames]


async def test_who_comes_back_on_another_socket_hears_of_the_job_from_then_on(
    agent: AgentStub, fabric: Fabric
) -> None:
    agent.join()
    job = await accept(fabric)
    replica = (await agent.hears(link.StartReplica)).replica
    again = Subscriber(ANONYMOUS)
    frame = await fabric.jobs.follow(job, again, "http://here")
    assert frame.id == job
    agent.say(link.ReplicaReady(replica, 1.0, 10))
    await agent.hears(link.RunAttempt)
    agent.ended(job, 1, "completed")
    await agent.hears(link.OutcomeRecorded)
    told = _told(again)
    assert [each["status"] for each in told][-2:] == ["DISPATCHED", "COMPLETED"]
    assert told[-1]["meta"]["result_sha256"] == "0" * 64
    late = await fabric.jobs.follow(job, Subscriber(ANONYMOUS), "http://here")
    assert late.status == "COMPLETED"
    assert late.data is not None
    assert late.data.startswith("http://here/")


@pytest.mark.parametrize(("revoked", "there"), [(True, True), (True, False), (False, False), (False, True)])
async def test_a_try_that_missed_kept_values_because_they_were_just_renamed_is_made_again(
    agent: AgentStub,
    fabric: Fabric,
    records: SqlRecordStore,
    blobs: FileBlobs,
    revoked: bool,
    there: bool,
) -> None:
    """Links to them were revoked between the order to use them and their opening; what is gone, is gone."""
    agent.join()
    keeper = await accept(fabric)
    agent.say(link.ReplicaReady((await agent.hears(link.StartReplica)).replica, 1.0, 10))
    await agent.hears(link.RunAttempt)
    for name in (result_name(keeper, 1), kept_name(keeper, 1)):
        blobs.path(name).write_bytes(b"values")
    done = AttemptOutcome.COMPLETED
    agent.say(link.AttemptEnded(keeper, 1, done, None, "", "", link.Usage(), 6, "0" * 64, kept_bytes=6))
    await agent.hears(link.OutcomeRecorded)
    user = Job(new_job_id(), ANONYMOUS, ONE, "key", False, {}, 1, time.time(), extras=Extras(uses=(keeper,)))
    await fabric.jobs.accept(user, subscriber=None, base_url="", received=time.monotonic())
    run = await agent.hears(link.RunAttempt, 2)
    assert [blob.name for blob in run.kept] == [kept_name(keeper, 1)]
    job = await records.job(keeper)
    assert job is not None
    if revoked:
        job = await fabric.jobs.revoke_links(job, ANONYMOUS)
    if not there:
        blobs.path(kept_of(job)).unlink()
    missed = link.AttemptEnded(
        user.id, 1, AttemptOutcome.FAILED, "kept_gone", "They are gone.", "", link.Usage(), None, None
    )
    agent.say(missed)
    await agent.hears(link.OutcomeRecorded, 2)
    if not (revoked and there):
        assert await state(records, user.id) is JobState.FAILED
        return
    again = await agent.hears(link.RunAttempt, 3)
    assert (again.job, again.attempt) == (user.id, 2)
    assert [blob.name for blob in again.kept] == [kept_name(keeper, 1, 1)]


async def test_nobody_follows_the_job_of_another(agent: AgentStub, fabric: Fabric) -> None:
    agent.join()
    job = await accept(fabric)
    for asked in (job, "unknown"):
        frame = await fabric.jobs.follow(asked, Subscriber(UserName("eve")), "")
        assert (frame.id, frame.status) == (asked, "ERROR")
        assert "[job_unknown]" in frame.description
    assert fabric._active[job].subscriber is None


async def test_gateway_of_a_drained_fabric_begins_nothing_until_it_is_resumed(
    fabric: Fabric, blobs: FileBlobs, records: SqlRecordStore
) -> None:
    """An earlier gateway was told to drain, and is gone."""
    await records.set_draining(True)
    await fabric.recover()
    runtime = asyncio.create_task(fabric.run())
    agent = AgentStub(fabric, blobs, runtime)
    agent.join()
    job = await accept(fabric)
    async with asyncio.timeout(20):
        while "begins no jobs for a while" not in fabric._active[job].frame.description:
            await asyncio.sleep(0.01)
    assert fabric.overview.draining
    assert not any(isinstance(message, link.StartReplica) for message in agent.told)
    await fabric.steering.resume(ANONYMOUS)
    agent.say(link.ReplicaReady((await agent.hears(link.StartReplica)).replica, 1.0, 10))
    await agent.hears(link.RunAttempt)
    assert not await records.draining()
    await fabric.steering.drain(ANONYMOUS)
    assert await records.draining()
    runtime.cancel()
    await asyncio.gather(runtime, return_exceptions=True)


async def test_a_job_is_stopped_though_the_mocked_full_store_cannot_remember_its_cancel(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked is told that it is not on record; a job that runs wild ends all the same."""

    async def full(_: JobId, *, by: str) -> bool:
        raise StoreUnavailable(errors.STORAGE_FULL, "The disk is full.")

    agent.join()
    job = await accept(fabric)
    agent.say(link.ReplicaReady((await agent.hears(link.StartReplica)).replica, 1.0, 10))
    await agent.hears(link.RunAttempt)
    monkeypatch.setattr(records, "ask_cancel", full)
    found = await records.job(job)
    assert found is not None
    with pytest.raises(StoreUnavailable):
        await fabric.jobs.cancel(found, ANONYMOUS)
    assert (await agent.hears(link.CancelAttempt)).job == job


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
async def test_end_of_a_lost_attempt_that_comes_while_the_job_waits_again_changes_nothing(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore, blobs: FileBlobs, outcome: str
) -> None:
    """The replica dies while the attempt's result is on its way: first its death is heard, then the end."""
    agent.join()
    job = await accept(fabric)
    first = (await agent.hears(link.StartReplica)).replica
    agent.say(link.ReplicaReady(first, 1.0, 10))
    await agent.hears(link.RunAttempt)
    agent.say(link.ReplicaFailed(first, "It died."))
    second = (await agent.hears(link.StartReplica, 2)).replica
    agent.ended(job, 1, outcome)
    await agent.hears(link.OutcomeRecorded)
    agent.say(link.ReplicaReady(second, 1.0, 10))
    run = await agent.hears(link.RunAttempt, 2)
    assert (run.job, run.attempt) == (job, 2)
    agent.ended(job, 2, "completed")
    await agent.hears(link.OutcomeRecorded, 2)
    assert await state(records, job) is JobState.COMPLETED
    assert fabric.alive
    # Nothing is kept but the result of the try that counts.
    async with asyncio.timeout(60):
        while await blobs.names() != [result_name(job, 2)]:
            await asyncio.sleep(0.01)


async def test_nobodys_name_is_in_the_log_of_acts_however_new_or_gone_they_are(
    fabric: Fabric, records: SqlRecordStore
) -> None:
    """A key is good at once, and for a second after its end; the gateway looks at people every half second."""
    ada = User(UserName("ada"), Role.OPERATOR, 1.0)
    await records.add_user(ada)
    job = await accept(fabric, ada.name)
    await records.remove_user(ada.name, 2.0)
    found = await records.job(job)
    assert found is not None
    await fabric.jobs.cancel(found, ada.name)
    acts = [record.entry for record in await records.audit()]
    assert [(act.actor, act.action) for act in acts] == [
        ("fabric", "user.added"),
        (f"user:{ada.id}", "job.accepted"),
        ("fabric", "user.removed"),
        ("user:removed", "job.cancel_asked"),
    ]
