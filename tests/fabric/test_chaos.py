"""Processes are killed at every fault point and at random, the database is crashed: no accepted job notices.

What is proved of each: it is on record once, has ended once, and its end, to the bit, is that of a fabric in which nothing
was killed.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from edif.blobs.store import kept_of, result_of
from edif.core.errors import REPLICA_LOST
from edif.core.job import FINAL_STATES, AttemptOutcome, Job, JobState
from edif.faults import Point
from edif.records.migrate import open_store
from edif.records.store import RecordStore
from tests.servers.postgres import PostgresServer, running_postgres
from tests.sizes import SIZES
from tests.support.chaos import (
    SEALED_ID,
    SHARED_IDS,
    Clients,
    End,
    Killer,
    calm_ends,
    fault_settings,
    fired,
    table,
)
from tests.support.fabric import Fabric, start_fabric
from tests.support.kept import KEPT_BYTES
from tests.support.models import GPT2_ID

SEED = 20_26
MOST_LOST = 0.01
"""Of all jobs: those that met a death in each of their three tries, at random times, and may honestly end with it."""

Ends = dict[tuple[str, str], End]


def arguments(models: dict[str, Path]) -> tuple[list[str], dict[str, str]]:
    """Models of both kinds of isolation."""
    served = [f"{shared}={models[GPT2_ID]}" for shared in SHARED_IDS]
    sealed = {SEALED_ID: {"folder": str(models[GPT2_ID]), "isolation": "sealed", "sealed_at_once": 2}}
    variables = {
        "EDIF_DEPLOYMENTS": json.dumps(sealed),
        "EDIF_REQUESTS_PER_S": "100000",
        "EDIF_STATUS_PER_S": "1000",
        "EDIF_MIN_FREE_BYTES": "0",
    }
    return [part for each in served for part in ("--model", each)], variables


@pytest.fixture(scope="module")
def calm(models: dict[str, Path], blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    flags, variables = arguments(models)
    fabric = start_fabric(tmp_path_factory.mktemp("calm") / "data", *flags, **variables)
    try:
        for model in (*SHARED_IDS, SEALED_ID):
            fabric.wait_running(model)
        ends = asyncio.run(calm_ends(fabric, blobs))
    finally:
        assert fabric.stop() == 0
    statuses = {what: end.status for what, end in ends.items()}
    failing = {"raises", "wrong_order", "unpicklable"}
    assert statuses == {what: "ERROR" if what[1] in failing else "COMPLETED" for what in ends}
    return ends


async def chaos(
    fabric: Fabric, clients: Clients, killer: Killer, disturb: Callable[[], Awaitable[None]]
) -> None:
    """Send all jobs, and more until every fault point has fired, while the killer is at work."""
    killing = asyncio.create_task(killer.run())
    disturbed = asyncio.create_task(_in_the_middle(clients, disturb))

    def more(number: int) -> bool:
        return number < SIZES.chaos_jobs or len(fired(fabric)) < len(Point)

    try:
        await clients.run(SIZES.chaos_clients, more)
        await disturbed
    finally:
        for task in (killing, disturbed):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
    killer.look()


async def _in_the_middle(clients: Clients, disturb: Callable[[], Awaitable[None]]) -> None:
    while len(clients.sent) < SIZES.chaos_jobs // 2:
        await asyncio.sleep(0.05)
    await disturb()


@contextlib.asynccontextmanager
async def store_of(fabric: Fabric) -> AsyncIterator[RecordStore]:
    store = await open_store(fabric.data, fabric.environment.get("EDIF_RECORD_STORE", ""))
    yield store
    await store.close()


async def check_records(store: RecordStore, blobs: Path, clients: Clients) -> Counter[str]:
    """Each job that was answered for is on record once, ended once, and left what it should; counts of what happened."""
    jobs = {job.id: job for job in await store.jobs(limit=10**6)}
    assert sorted(jobs) == sorted(sent.id for sent in clients.sent), "lost, or twice"
    counts: Counter[str] = Counter()
    for sent in clients.sent:
        job = jobs[sent.id]
        attempts = await store.attempts(job.id)
        check_job(job, [attempt.outcome for attempt in attempts])
        assert (job.state is JobState.COMPLETED) == (sent.end.status == "COMPLETED")
        if job.state is JobState.COMPLETED:
            stored = (blobs / result_of(job)).read_bytes()
            assert job.result_sha256 == hashlib.sha256(stored).hexdigest() == sent.end.sha256
        if job.kept_bytes is not None:
            assert sent.what[1] == "keeps"
            assert (blobs / kept_of(job)).stat().st_size == job.kept_bytes == KEPT_BYTES
            counts["jobs that keep values"] += 1
        counts[f"jobs with {len(attempts)} tries"] += 1
    assert sum(row.jobs for row in await store.usage()) == len(jobs)
    acts = Counter(
        (record.entry.subject, record.entry.action) for record in await store.audit(after=0, limit=10**6)
    )
    for job_id, job in jobs.items():
        endings = {f"job.{state.value}": acts[job_id, f"job.{state.value}"] for state in FINAL_STATES}
        expected = dict.fromkeys(endings, 0) | {f"job.{job.state.value}": 1}
        assert (acts[job_id, "job.accepted"], endings) == (1, expected)
        assert acts[job_id, "result.links_revoked"] == job.revocations
        counts["revocations"] += job.revocations
    return counts


def check_job(job: Job, outcomes: list[AttemptOutcome | None]) -> None:
    assert job.state.final
    assert None not in outcomes
    assert outcomes[:-1] == [AttemptOutcome.LOST] * (len(outcomes) - 1), (
        "only a lost attempt is followed by another"
    )
    last = {JobState.COMPLETED: AttemptOutcome.COMPLETED, JobState.FAILED: AttemptOutcome.FAILED}[job.state]
    assert outcomes[-1] is (AttemptOutcome.LOST if job.error_code == REPLICA_LOST.code else last)
    assert len(outcomes) == job.attempts <= 3


def check_ends(clients: Clients, calm: Ends) -> int:
    """Every job ended as in the calm run; how many did not because they ran out of tries."""
    lost = 0
    for sent in clients.sent:
        if sent.end != calm[sent.what]:
            assert sent.end.description.endswith(f"[{REPLICA_LOST.code}]"), (sent, calm[sent.what])
            lost += 1
    assert lost <= MOST_LOST * len(clients.sent)
    return lost


async def prove(
    fabric: Fabric, blobs: Path, calm: Ends, disturb: Callable[[], Awaitable[None]], title: str
) -> None:
    began = time.monotonic()
    clients = Clients(fabric.url, blobs, random.Random(SEED))
    killer = Killer(fabric, random.Random(SEED))
    try:
        await chaos(fabric, clients, killer, disturb)
    finally:
        code = fabric.stop()
    assert code == 0
    seconds = time.monotonic() - began
    assert fired(fabric) == {point.value for point in Point}
    assert not killer.left(), "a process outlived its fabric"
    for half_done in ("spool/scratch", "blobs/tmp", "blobs/payload"):
        assert not list((fabric.data / half_done).iterdir()), f"{half_done}: every job has ended"
    lost = check_ends(clients, calm)
    async with store_of(fabric) as store:
        counts = await check_records(store, fabric.data / "blobs", clients)
    audited = fabric.edif("audit", "verify")
    assert not audited["faults"]
    replayed = fabric.edif("replay")
    print(
        *table(
            title,
            {
                "jobs": len(clients.sent),
                "seconds": round(seconds),
                **counts,
                "out of tries (replica_lost)": lost,
                **{f"killed: {name}": count for name, count in killer.killed.items()},
                "fault points fired": len(Point),
                **clients.met,
                "audit entries": audited["entries"],
                "decisions replayed": f"{replayed['steps']} of {replayed['parts']} gateways",
            },
        ),
        sep="\n",
    )


def start(models: dict[str, Path], data: Path, **more: str) -> Fabric:
    flags, variables = arguments(models)
    faults = fault_settings(random.Random(SEED))
    decisions = str(data.parent / "decisions")
    return start_fabric(data, *flags, EDIF_FAULTS=faults, EDIF_DECISION_LOG=decisions, **variables, **more)


async def _nothing() -> None:
    return


@pytest.mark.slow
@pytest.mark.timeout(1700)
async def test_no_death_loses_or_changes_a_job_on_sqlite(
    models: dict[str, Path], blobs: Path, calm: Ends, tmp_path: Path
) -> None:
    fabric = start(models, tmp_path / "data")
    await prove(fabric, blobs, calm, _nothing, "Chaos on SQLite")


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1700)
async def test_no_death_of_processes_or_database_loses_or_changes_a_job_on_postgresql(
    models: dict[str, Path], blobs: Path, calm: Ends, tmp_path: Path
) -> None:
    with running_postgres() as server:
        fabric = start(models, tmp_path / "data", EDIF_RECORD_STORE=server.new_database())

        async def crash() -> None:
            await asyncio.to_thread(_restart, server)

        await prove(fabric, blobs, calm, crash, "Chaos on PostgreSQL")


def _restart(server: PostgresServer) -> None:
    server.stop(signal.SIGQUIT)
    server.start()
