"""Whatever process dies, an accepted job ends exactly once, with the result of a calm run."""

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect

from tests.servers.postgres import ESCAPED_PASSWORD, PostgresServer, running_postgres
from tests.sizes import SIZES
from tests.support.fabric import PATIENCE_S, Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer
from tests.support.waiting import eventually, gateway_is_tried_until, says


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """Without short limits: a job that is held still until a process has come up again must outlast it. With one slot, so that
    one job runs and others wait.
    """
    running = start_fabric(
        tmp_path_factory.mktemp("recovery") / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--merge", "off"),
    )
    yield running
    assert running.stop() == 0


def _victim(fabric: Fabric, name: str) -> int:
    if name in ("gateway", "agent"):
        return fabric.pid(name)
    zygote = psutil.Process(fabric.pid("agent")).children()[0]
    return zygote.pid if name == "zygote" else zygote.children()[0].pid


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gateway", "agent", "zygote", "runner"])
async def test_jobs_survive_the_death_of(name: str, fabric: Fabric, client: Replayer) -> None:
    fabric.wait_running(GPT2_ID)
    calm = (await client.run("slow")).result
    jobs = [await client.submit("slow"), await client.submit("slow"), await client.submit("hello")]
    await client.until_running(jobs[0])
    os.kill(_victim(fabric, name), signal.SIGKILL)
    ends = [await client.poll(job) for job in jobs]
    assert [end["status"] for end in ends] == ["COMPLETED"] * 3
    assert [await client.fetch(end) for end in ends[:2]] == [calm, calm]
    tries = [end["meta"]["attempts"] for end in ends]
    # A gateway's death does not touch the running job: the agent brings it to its end and reports it later.
    assert tries == ([1, 1, 1] if name == "gateway" else [2, 1, 1])
    for job in jobs:
        shown = fabric.edif("jobs", "show", job)
        assert [t["outcome"] for t in shown["tries"]].count("completed") == 1


@pytest.mark.slow
async def test_job_survives_the_death_of_a_model_that_is_being_loaded(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    fabric = start_fabric(tmp_path / "data", "--model", f"{GPT2_ID}={models[GPT2_ID]}")
    try:
        async with Replayer(fabric.url, blobs) as client:
            job = await client.submit("hello")
            await eventually(says(client, job, "The model is being brought up: "))
            (zygote,) = psutil.Process(fabric.pid("agent")).children()
            assert fabric.model_state(GPT2_ID) != "RUNNING"
            zygote.kill()
            end = await client.poll(job)
        assert (end["status"], end["meta"]["attempts"]) == ("COMPLETED", 1)
        assert '"fabric.replica_failed"' in fabric.log("gateway")
    finally:
        assert fabric.stop() == 0


@pytest.mark.slow
async def test_an_acknowledged_job_is_never_lost(fabric: Fabric, client: Replayer) -> None:
    """The gateway is killed right after each RECEIVED, again and again."""
    jobs = []
    for _ in range(SIZES.gateway_kills):
        await _answering(client)
        jobs.append(await client.submit("hello"))
        os.kill(fabric.pid("gateway"), signal.SIGKILL)
    await _answering(client)
    ends = [await client.poll(job) for job in jobs]
    assert [end["status"] for end in ends] == ["COMPLETED"] * len(jobs)


@pytest.mark.parametrize("where", ["queued", "running"])
async def test_a_cancel_outlives_the_gateway(where: str, fabric: Fabric, client: Replayer) -> None:
    """The agent is held still, so that it cannot hear of the cancel before the gateway is killed."""
    fabric.wait_running(GPT2_ID)
    blocker = await client.submit("endless")
    job = await client.submit("hello") if where == "queued" else blocker
    await client.until_running(blocker)
    agent = fabric.pid("agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        assert (await client.cancel(job)).status_code == 202
        os.kill(fabric.pid("gateway"), signal.SIGKILL)
        await _answering(client)
    finally:
        os.kill(agent, signal.SIGCONT)
    if where == "queued":  # not behind a job that never ends
        await client.cancel(blocker)
    end = await client.poll(job)
    assert (end["status"], end["description"].endswith("[cancelled]")) == ("ERROR", True)
    await client.poll(blocker)
    assert (await client.run("hello")).status == "COMPLETED"


async def test_payloads_of_no_job_and_of_ended_ones_are_swept(fabric: Fabric, client: Replayer) -> None:
    """The gateway died between an upload's last byte and its record, or between a job's end and its payload's deletion."""
    payloads = fabric.data / "blobs" / "payload"
    ended = (await client.run("hello")).id
    strays = [payloads / "j-never-recorded", payloads / ended]
    kept = await client.submit("slow")
    agent = fabric.pid("agent")
    os.kill(agent, signal.SIGSTOP)  # so that the job does not end
    try:
        for stray in strays:
            stray.write_bytes(b"x")
        os.kill(fabric.pid("gateway"), signal.SIGKILL)
        await _answering(client)
        assert not any(stray.exists() for stray in strays)
        assert (payloads / kept).exists()
    finally:
        os.kill(agent, signal.SIGCONT)
    assert (await client.poll(kept))["status"] == "COMPLETED"


async def test_a_dropped_socket_loses_no_result(fabric: Fabric, client: Replayer) -> None:
    fabric.wait_running(GPT2_ID)
    calm = (await client.run("hello")).result
    async with connect(fabric.url.replace("http", "ws", 1) + "/subscribe", proxy=None) as socket:
        session = json.loads(await socket.recv())["session_id"]
        job = (await client.post("slow", session)).json()["id"]
    end = await client.poll(job)
    assert end["status"] == "COMPLETED"
    assert await client.fetch(end) == calm


@pytest.mark.slow
async def test_a_killed_supervisor_is_succeeded(models: dict[str, Path], blobs: Path, tmp_path: Path) -> None:
    """The services go on alone; the next supervisor takes the agent over, with its running job."""
    arguments = ("--model", f"{GPT2_ID}={models[GPT2_ID]}")
    first = start_fabric(tmp_path / "data", *arguments)
    second = None
    try:
        first.wait_running(GPT2_ID)
        async with Replayer(first.url, blobs) as client:
            job = await client.submit("slow")
            agent = first.pid("agent")
            first.kill()
            assert psutil.pid_exists(agent)
            second = start_fabric(tmp_path / "data", *arguments)
            assert second.pid("agent") == agent
            assert second.url == first.url
            end = await client.poll(job)
            assert (end["status"], end["meta"]["attempts"]) == ("COMPLETED", 1)
    finally:
        if second is not None:
            assert second.stop() == 0
        else:
            first.stop()


@pytest.mark.slow
async def test_an_agent_is_brought_back_however_often_it_is_killed(fabric: Fabric, client: Replayer) -> None:
    for _ in range(6):  # more than the number of tries for one that leaves by itself
        agent = fabric.pid("agent")
        os.kill(agent, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while fabric.pid("agent") == agent:
                await asyncio.sleep(0.05)
    assert (await client.run("hello")).status == "COMPLETED"


@pytest.mark.slow
def test_a_gateway_that_cannot_come_up_again_ends_the_supervisor_with_its_reason(tmp_path: Path) -> None:
    fabric = start_fabric(tmp_path / "data", "--demo")
    try:
        fabric.wait_running("edif/demo")
        agent = fabric.pid("agent")
        database = tmp_path / "data" / "records.sqlite"
        for file in (database, *database.parent.glob("records.sqlite-*")):
            file.write_bytes(b"no database" * 1000)
        os.kill(fabric.pid("gateway"), signal.SIGKILL)
        assert fabric.process.wait(timeout=PATIENCE_S) != 0
        assert fabric.process.stdout is not None
        said = fabric.process.stdout.read().decode()
        assert "[data_unwritable]" in said
        assert "cannot be read" in said
        assert not psutil.pid_exists(agent)
    finally:
        fabric.stop()


@pytest.mark.slow
def test_a_gateway_that_the_configuration_keeps_from_coming_up_is_tried_once(tmp_path: Path) -> None:
    fabric = start_fabric(tmp_path / "data", "--demo")
    try:
        with closing(sqlite3.connect(tmp_path / "data" / "records.sqlite")) as records, records:
            records.execute("UPDATE alembic_version SET version_num = '9999'")
        os.kill(fabric.pid("gateway"), signal.SIGKILL)
        assert fabric.process.wait(timeout=60) != 0
        assert fabric.process.stdout is not None
        assert "[data_newer]" in fabric.process.stdout.read().decode()
        assert fabric.log("gateway").count("[data_newer]") == 1
    finally:
        fabric.stop()


@pytest.fixture(scope="module")
def on_postgres(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PostgresServer, Fabric]]:
    """A database server that a test may stop, and a fabric whose records are there."""
    with running_postgres() as server:
        fabric = start_fabric(
            tmp_path_factory.mktemp("on_postgres") / "data",
            *("--model", f"{GPT2_ID}={models[GPT2_ID]}"),
            EDIF_RECORD_STORE=server.new_database(),
        )
        try:
            yield server, fabric
        finally:
            assert fabric.stop() == 0


@pytest.mark.slow
async def test_database_that_is_started_again_loses_no_job_and_ends_no_gateway(
    on_postgres: tuple[PostgresServer, Fabric], blobs: Path
) -> None:
    server, fabric = on_postgres
    fabric.wait_running(GPT2_ID)
    pids = (fabric.pid("gateway"), fabric.pid("agent"))
    before = _recorded(fabric)
    async with Replayer(fabric.url, blobs) as client:
        accepted: list[str] = []
        refused: list[httpx.Response] = []

        async def send() -> None:
            while len(accepted) < 40:
                answer = await client.post("hello")
                if answer.status_code == 200:
                    accepted.append(answer.json()["id"])
                else:
                    refused.append(answer)
                    await asyncio.sleep(0.1)

        async def restart() -> None:
            for number, how in ((10, signal.SIGINT), (20, signal.SIGQUIT)):
                while len(accepted) < number:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(server.stop, how)
                answer = await client.get("/response/j-anything")
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unreachable")
                await asyncio.to_thread(server.start)

        await asyncio.gather(send(), restart())
        ends = [await client.poll(job) for job in accepted]
        assert [end["status"] for end in ends] == ["COMPLETED"] * len(accepted)
        assert all([await client.ended_once(job) for job in accepted])
        assert {answer.json()["code"] for answer in refused} <= {"store_unreachable"}
        assert _recorded(fabric) - before == set(accepted)
    assert (fabric.pid("gateway"), fabric.pid("agent")) == pids
    told = fabric.log("gateway") + fabric.log("agent")
    assert ESCAPED_PASSWORD not in told
    for pid in pids:
        assert ESCAPED_PASSWORD not in " ".join(psutil.Process(pid).cmdline())
    store = fabric.environment["EDIF_RECORD_STORE"]
    assert store not in psutil.Process(fabric.pid("agent")).environ().values()
    assert fabric.edif("users", "list") == []


def _recorded(fabric: Fabric) -> set[str]:
    return {job["id"] for job in fabric.edif("jobs", "list", "--limit", "1000")}


@pytest.mark.slow
async def test_a_gateway_waits_for_a_database_that_is_away(
    on_postgres: tuple[PostgresServer, Fabric], blobs: Path
) -> None:
    server, fabric = on_postgres
    server.stop()
    await gateway_is_tried_until(fabric, "store_unreachable", server.start)
    async with Replayer(fabric.url, blobs) as client:
        assert (await client.run("hello")).status == "COMPLETED"


@pytest.mark.slow
async def test_stopping_a_fabric_keeps_its_jobs(models: dict[str, Path], blobs: Path, tmp_path: Path) -> None:
    """A stop that waits for nobody, while one job runs and one waits; both end after the next start."""
    arguments = ("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--merge", "off")
    first = start_fabric(tmp_path / "data", *arguments, EDIF_DRAIN_S="0")
    try:
        first.wait_running(GPT2_ID)
        async with Replayer(first.url, blobs) as client:
            jobs = [await client.submit("slow"), await client.submit("hello")]
            await client.until_running(jobs[0])
    finally:
        assert first.stop() == 0
    second = start_fabric(tmp_path / "data", *arguments)
    try:
        async with Replayer(second.url, blobs) as client:
            ends = [await client.poll(job) for job in jobs]
        assert [(end["status"], end["meta"]["attempts"]) for end in ends] == [
            ("COMPLETED", 2),
            ("COMPLETED", 1),
        ]
    finally:
        assert second.stop() == 0


async def _answering(client: Replayer) -> None:
    for _ in range(300):
        try:
            if (await client.get("/ping")).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("the gateway did not come back")
