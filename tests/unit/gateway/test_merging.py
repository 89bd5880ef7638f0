"""Traces that share forward passes: what an agent is told of it, and what is made of what it says."""

from math import nan

import pytest

from edif.blobs.store import result_name
from edif.core.ids import JobId
from edif.core.job import AttemptOutcome, Extras
from edif.core.users import Role, User
from edif.gateway.active import charged_s
from edif.gateway.fabric import Fabric
from edif.models.catalogue import Catalogue, Deployment
from edif.records.sql_store import SqlRecordStore
from edif.telemetry import metrics
from edif.wire import link
from tests.unit.gateway.agent_stub import ONE, AgentStub, accept
from tests.unit.gateway.conftest import ADA

MERGING = link.Merging(rows=4, tokens=100, tolerance=1.0, alone_at_once=6)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue([Deployment(link.ModelSpec(ONE), sealed_at_once=6, merging=MERGING)])


async def ready(agent: AgentStub) -> link.StartReplica:
    started: link.StartReplica = await agent.hears(link.StartReplica)
    agent.say(link.ReplicaReady(started.replica, 1.0, 10))
    return started


async def test_an_agent_is_told_how_and_whose_traces_are_merged(agent: AgentStub, fabric: Fabric) -> None:
    agent.join()
    jobs = {await accept(fabric, extras=Extras(merge=merge)): merge for merge in (True, False)}
    assert (await ready(agent)).merging == MERGING
    runs = [await agent.hears(link.RunAttempt, number) for number in (1, 2)]  # both at once
    assert {run.job: run.merge for run in runs} == jobs


async def test_as_many_jobs_as_a_pass_has_room_for_and_more_once_they_are_sealed(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore
) -> None:
    agent.join()
    for _ in range(8):
        await accept(fabric)
    await ready(agent)
    first = await agent.hears(link.RunAttempt, 4)
    assert (
        first.cell,
        fabric.overview.models()[0]["jobs_at_once"],
        fabric.overview.models()[0]["merge"],
    ) == (None, 4, "auto")
    await records.add_user(User(ADA, Role.RESEARCHER, 1.0))
    assert (await agent.hears(link.RunAttempt, 6)).cell is not None
    assert fabric.overview.models()[0]["jobs_at_once"] == 6
    assert fabric.overview.running() == 6


async def ended(agent: AgentStub, job: JobId, usage: link.Usage) -> None:
    (agent.blobs.folder / result_name(job, 1)).write_bytes(b"result")
    agent.say(link.AttemptEnded(job, 1, AttemptOutcome.COMPLETED, None, "", "", usage, 6, "0" * 64))


async def test_who_shared_a_pass_is_charged_a_part_of_it_and_told(
    agent: AgentStub, fabric: Fabric, records: SqlRecordStore
) -> None:
    await records.add_user(User(ADA, Role.RESEARCHER, 1.0))
    agent.join()
    shared, alone = [await accept(fabric, owner=ADA) for _ in range(2)]
    await ready(agent)
    await agent.hears(link.RunAttempt, 2)
    merged = metrics.JOBS_MERGED.labels(ONE)
    before = merged._value.get()
    await ended(agent, shared, link.Usage(run_s=3.0, charged_s=0.5, shared_passes=2, shared_rows=7))
    await ended(agent, alone, link.Usage(run_s=3.0, charged_s=3.0))
    await agent.hears(link.OutcomeRecorded, 2)
    assert merged._value.get() == before + 1
    assert fabric.jobs.uses(ADA)["user"]["seconds_per_day"]["used"] == 3.5
    told = []
    for job in (shared, alone):
        found = await records.job(job)
        assert found is not None
        names = ("run_s", "charged_s", "shared_passes", "shared_rows")
        told.append({name: found.meta[name] for name in names if name in found.meta})
    assert told == [{"run_s": 3.0, "charged_s": 0.5, "shared_passes": 2, "shared_rows": 7}, {"run_s": 3.0}]


@pytest.mark.parametrize(
    ("said", "charged"), [(0.0, 0.0), (2.5, 2.5), (4.0, 4.0), (4.5, 4.0), (-1.0, 0.0), (nan, 0.0)]
)
def test_nobody_is_charged_more_than_it_took_or_less_than_nothing(said: float, charged: float) -> None:
    assert charged_s(link.Usage(run_s=3.0, save_s=1.0, charged_s=said)) == charged
