"""Jobs in cells of their own: what ends one is told to its user, and touches nobody else. Escapes: tests/escape."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from edif.core import errors
from edif.core.errors import ErrorCode
from edif.walls.memory import memory_of
from tests.sizes import SIZES
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer

TRUSTED_ID = "tiny/trusted"
ATTACKERS = ("segfault", "exits", "eats_memory", "edits_weights", "flood", "leaves_hooks", "unpicklable")
READY_BYTES = 64 * 2**20
"""Free memory that a process may have before its job comes, at most; what a job uses of it is not counted."""
INSIDE = b"HOME LANG TMPDIR"


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    running = start_fabric(
        tmp_path_factory.mktemp("sealed") / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--isolation", "sealed"),
        *("--job-time-limit", "5", "--job-memory-limit", "1.5GiB", "--result-limit", "32MiB"),
        EDIF_SEALED_AT_ONCE="8",
        EDIF_MERGE="off",  # eight at once, and no more
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


def _zygote(fabric: Fabric) -> psutil.Process:
    return psutil.Process(fabric.pid("agent")).children()[0]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("eats_memory", errors.OUT_OF_MEMORY, "asked for more; it may use 1.5 GiB"),
        ("eats_tensor_memory", errors.OUT_OF_MEMORY, "asked for another 4,096 GiB; it may use 1.5 GiB"),
        ("fills_memory", errors.OUT_OF_MEMORY, "it may use 1.5 GiB"),
        ("segfault", errors.PROCESS_DIED, "SIGSEGV"),
        ("exits", errors.PROCESS_DIED, "exited with code"),
        ("endless", errors.TIME_LIMIT, "5 seconds"),
        ("endless_in_c", errors.TIME_LIMIT, "5 seconds"),
        ("too_much", errors.RESULT_TOO_LARGE, "32.0 MiB"),
    ],
)
async def test_what_ends_a_job_is_told_and_ends_nothing_else(
    name: str, code: ErrorCode, says: str, fabric: Fabric, client: Replayer
) -> None:
    calm = (await client.run("hello")).result
    zygote = _zygote(fabric).pid
    outcome = await client.run(name)
    assert outcome.status == "ERROR"
    assert outcome.description.endswith(f"[{code.code}]")
    assert says in outcome.description
    meta = outcome.final["meta"]
    assert meta["attempts"] == 1, "it is the job's own fault: it is not tried again"
    assert meta["run_s"] > (4.9 if code is errors.TIME_LIMIT else 0)
    assert (await client.run("hello")).result == calm
    assert _zygote(fabric).pid == zygote, "the model was not loaded again"


async def test_jobs_that_die_together_take_nobody_with_them(fabric: Fabric, client: Replayer) -> None:
    calm = (await client.run("hello")).result
    zygote = _zygote(fabric).pid
    for _ in range(2):
        outcomes = await asyncio.gather(*(client.run("exits") for _ in range(8)))
        assert {outcome.status for outcome in outcomes} == {"ERROR"}
    assert (await client.run("hello")).result == calm
    assert _zygote(fabric).pid == zygote


async def test_memory_that_ran_out_is_counted(client: Replayer) -> None:
    outcome = await client.run("fills_memory")
    used = re.search(r"had used ([\d.]+) GiB .* asked for another 0\.09313 GiB;", outcome.description)
    assert used is not None, outcome.description
    assert 1.2 < float(used[1]) <= 1.5
    assert 200_000_000 - READY_BYTES < outcome.final["meta"]["peak_memory_bytes"] < 264_000_000


async def test_the_models_own_memory_is_not_the_jobs(client: Replayer) -> None:
    small, large = [
        (await client.run(name)).final["meta"]["peak_memory_bytes"] for name in ("hello", "takes_memory")
    ]
    assert small < 32 * 2**20
    assert 100_000_000 - READY_BYTES < large < 164_000_000


@pytest.mark.parametrize("name", ["edits_weights", "leaves_hooks", "large"])
async def test_what_is_allowed_inside_stays_inside(name: str, fabric: Fabric, client: Replayer) -> None:
    calm = (await client.run("hello")).result
    assert (await client.run(name)).status == "COMPLETED"
    assert (await client.run("hello")).result == calm


async def test_a_cell_leaves_neither_process_nor_scratch(fabric: Fabric, client: Replayer) -> None:
    for _ in range(5):
        assert (await client.run("hello")).status == "COMPLETED"
    ready = _zygote(fabric).children()
    assert len(ready) <= 4, "two stand ready, and two may just be coming or going"
    scratch = list((fabric.data / "spool" / "scratch").iterdir())
    assert len(scratch) <= 4


@pytest.mark.slow
async def test_what_a_killed_agent_left_is_swept(fabric: Fabric, client: Replayer) -> None:
    calm = (await client.run("hello")).result
    spool = fabric.data / "spool"
    stray = spool / "scratch" / "of-a-dead-job" / "deep"
    stray.mkdir(parents=True)
    (spool / "half-moved").write_bytes(b"x")
    os.kill(fabric.pid("agent"), signal.SIGKILL)
    assert (await client.run("hello")).result == calm  # another agent has come up
    assert not stray.exists()
    assert not (spool / "half-moved").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_many_jobs_and_attackers_leave_nothing_in_the_parents(fabric: Fabric, client: Replayer) -> None:
    calm = (await client.run("hello")).result
    before = await _at_rest(fabric)
    jobs = iter(range(SIZES.sealed_jobs))

    async def one_client() -> None:
        for number in jobs:
            if number % 20 == 0:
                attack = ATTACKERS[number // 20 % len(ATTACKERS)]
                assert (await client.run(attack)).status in ("COMPLETED", "ERROR")
            else:
                assert (await client.run("hello")).result == calm

    await asyncio.gather(*(one_client() for _ in range(4)))
    after = await _at_rest(fabric)
    assert after.descriptors <= before.descriptors + 2, "a ready one more or less"
    assert after.zygote_memory < before.zygote_memory + 8 * 2**20
    assert after.agent_memory < before.agent_memory + 8 * 2**20 + 2_000 * SIZES.sealed_jobs


async def _many(client: Replayer, jobs: int) -> dict[str, str]:
    """Jobs that were just sent, by id: what each of them does. Some run now, and most wait."""
    kinds = [("slow", "hello", "wave", "raises")[number % 4] for number in range(jobs)]
    sent = {await client.submit(kind): kind for kind in kinds}
    await _wait_any(client, list(sent), "RUNNING")
    return sent


async def _ended_as_ever(client: Replayer, sent: dict[str, str], calm: dict[str, bytes | None]) -> None:
    for job, kind in sent.items():
        end = await client.poll(job)
        assert end["meta"]["attempts"] == 1
        assert (end["status"] == "COMPLETED") == (kind != "raises")
        assert kind == "raises" or await client.fetch(end) == calm[kind]


@pytest.mark.slow
async def test_a_drain_under_load_lets_cells_end_and_begins_none(fabric: Fabric, client: Replayer) -> None:
    calm = {kind: (await client.run(kind)).result for kind in ("slow", "hello", "wave")}
    for _ in range(SIZES.drains):
        sent = await _many(client, SIZES.drained_jobs)
        fabric.edif("drain")
        sent |= {await client.submit("hello"): "hello"}  # is taken, and waits
        async with asyncio.timeout(60):
            while fabric.edif("status")["running"]:
                await asyncio.sleep(0.05)
        waiting = [job for job in sent if await _status(client, job) == "QUEUED"]
        assert waiting
        await _at_rest(fabric)
        assert {await _status(client, job) for job in waiting} == {"QUEUED"}
        fabric.edif("resume")
        await _ended_as_ever(client, sent, calm)


@pytest.mark.slow
async def test_a_stop_under_load_lets_cells_end_and_keeps_who_waits(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--isolation", "sealed", "--merge", "off")
    fabric = start_fabric(tmp_path / "data", *model, EDIF_DRAIN_S="60")
    async with Replayer(fabric.url, blobs) as client:
        calm = {kind: (await client.run(kind)).result for kind in ("slow", "hello", "wave")}
        sent = await _many(client, SIZES.drained_jobs)
        assert fabric.stop() == 0
    assert not list((fabric.data / "spool" / "scratch").iterdir())
    on_record = {job["id"]: job for job in fabric.edif("users", "export", "local")["jobs"]}
    states = {on_record[job]["state"] for job in sent}
    assert "queued" in states
    assert states <= {"completed", "failed", "queued"}
    again = start_fabric(tmp_path / "data", *model)
    try:
        async with Replayer(again.url, blobs) as client:
            await _ended_as_ever(client, sent, calm)
    finally:
        assert again.stop() == 0


class Held(NamedTuple):
    """What the agent and its zygote hold: numbers of things, and bytes of memory, shared with forks or not."""

    processes: int
    descriptors: int
    scratch: int
    agent_memory: int
    zygote_memory: int


async def _at_rest(fabric: Fabric) -> Held:
    """What is held when nothing runs: the zygote and two that stand ready, nobody who is just coming or leaving."""
    for _ in range(100):
        held = _held(fabric)
        if (held.processes, held.scratch) == (3, 2):
            return held
        await asyncio.sleep(0.1)
    raise AssertionError(f"no rest was reached: {held}")


def _held(fabric: Fabric) -> Held:
    agent, zygote = psutil.Process(fabric.pid("agent")), _zygote(fabric)
    return Held(
        processes=len(agent.children(recursive=True)),
        descriptors=agent.num_fds() + zygote.num_fds(),
        scratch=len(list((fabric.data / "spool" / "scratch").iterdir())),
        agent_memory=memory_of(agent.pid).own,
        zygote_memory=memory_of(zygote.pid).own,
    )


async def test_jobs_are_sealed_from_the_first_user_on_and_nothing_is_loaded_again(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    fabric = start_fabric(tmp_path / "data", "--model", f"{GPT2_ID}={models[GPT2_ID]}")
    try:
        fabric.wait_running(GPT2_ID)
        async with Replayer(fabric.url, blobs) as anyone:
            outcome = await anyone.run("surroundings.raw")
            assert outcome.result is not None
            assert b"TMPDIR" not in outcome.result
        zygote = _zygote(fabric).pid
        fabric.edif("users", "add", "ada")
        key = str(fabric.edif("keys", "create", "--user", "ada")["key"])
        async with Replayer(fabric.url, blobs, key=key) as ada:
            outcome = await ada.run("surroundings.raw")
            assert outcome.result is not None
            assert all(name in outcome.result for name in INSIDE.split())
            assert b"PATH" not in outcome.result
        assert _zygote(fabric).pid == zygote
    finally:
        assert fabric.stop() == 0


async def test_each_deployment_has_its_own_isolation_and_sealed_jobs_run_at_once(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    deployments = {
        GPT2_ID: {"folder": str(models[GPT2_ID]), "isolation": "sealed", "sealed_at_once": 3},
        TRUSTED_ID: {"folder": str(models[GPT2_ID]), "isolation": "shared"},
    }
    fabric = start_fabric(tmp_path / "data", EDIF_DEPLOYMENTS=json.dumps(deployments), EDIF_MERGE="off")
    try:
        for model in deployments:
            fabric.wait_running(model)
        async with Replayer(fabric.url, blobs) as sealed, Replayer(fabric.url, blobs, TRUSTED_ID) as shared:
            calm = (await sealed.run("hello")).result
            inside, outside = [(await each.run("surroundings.raw")).result for each in (sealed, shared)]
            assert inside is not None
            assert outside is not None
            assert (b"TMPDIR" in inside, b"TMPDIR" in outside) == (True, False)

            endless = [await sealed.submit("endless") for _ in range(2)]
            assert (await sealed.run("hello")).result == calm, "there is a third place"
            endless.append(await sealed.submit("endless"))
            waiting = await sealed.submit("hello")
            for job in endless:
                await sealed.until_running(job)
            assert await _status(sealed, waiting) == "QUEUED", "and no fourth"
            for job in endless:
                await sealed.cancel(job)
            assert (await sealed.poll(waiting))["status"] == "COMPLETED"
            assert {(await sealed.poll(job))["status"] for job in endless} == {"ERROR"}

            endless = [await shared.submit("endless")]
            await shared.until_running(endless[0])
            waiting = await shared.submit("hello")
            assert await _status(shared, waiting) == "QUEUED", "shared jobs run one by one"
            await shared.cancel(endless[0])
            assert (await shared.poll(waiting))["status"] == "COMPLETED"
        rows = {row["model"]: row for row in fabric.edif("models", "list")}
        assert {model: (row["isolation"], row["jobs_at_once"]) for model, row in rows.items()} == {
            GPT2_ID: ("sealed", 3),
            TRUSTED_ID: ("shared", 1),
        }
    finally:
        assert fabric.stop() == 0


async def _status(client: Replayer, job: str) -> str:
    return str((await client.get(f"/response/{job}")).json()["status"])


async def _wait_any(client: Replayer, jobs: list[str], status: str) -> None:
    async with asyncio.timeout(60):
        while status not in {await _status(client, job) for job in jobs}:
            await asyncio.sleep(0.02)
