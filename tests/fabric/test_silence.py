"""Agents that fall silent without a word: a machine that vanishes, a process that hangs, also while the fabric drains."""

import contextlib
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.apart import agent_alone, gateway_alone
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.proxy import prefix_proxy
from tests.support.replay import Replayer
from tests.support.waiting import eventually, says

QUICK = {"EDIF_PING_S": "4", "EDIF_LEASE_S": "2"}


def health_is(client: Replayer, **expected: Any) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        health: dict[str, Any] = (await client.get("/edif/v1/health")).json()
        return expected.items() <= health.items()

    return is_so


def runs(client: Replayer, job: str, attempt: int) -> Callable[[], Awaitable[bool]]:
    """Whether this attempt of the job runs."""

    async def is_so() -> bool:
        shown = (await client.get(f"/edif/v1/jobs/{job}")).json()
        status = (await client.get(f"/response/{job}")).json()["status"]
        return status == "RUNNING" and len(shown["tries"]) == attempt

    return is_so


async def tries(client: Replayer, job: str) -> list[dict[str, Any]]:
    shown: dict[str, Any] = (await client.get(f"/edif/v1/jobs/{job}")).json()
    return list(shown["tries"])


def runner_of(agent: subprocess.Popen[bytes]) -> psutil.Process:
    """The process in which shared jobs of its one model run: the eldest, the other one is in reserve."""
    (zygote,) = psutil.Process(agent.pid).children()
    return min(zygote.children(), key=psutil.Process.create_time)


@pytest.mark.slow
async def test_jobs_of_a_machine_that_vanishes_are_tried_elsewhere(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}")
    async with prefix_proxy("") as line:
        with gateway_alone(tmp_path / "g", *model, **QUICK) as gateway:
            line.upstream = gateway.url
            with agent_alone(gateway, tmp_path / "far", line.url) as far:
                async with Replayer(gateway.url, blobs) as client:
                    job = await client.submit("endless")
                    await eventually(runs(client, job, 1))
                    runner = runner_of(far)
                    with agent_alone(gateway, tmp_path / "near"):
                        await eventually(health_is(client, agents=2))
                        line.silent = True
                        await eventually(runs(client, job, 2))
                        first, second = await tries(client, job)
                        assert (first["outcome"], second["outcome"]) == ("lost", None)
                        assert first["agent"] != second["agent"]
                        line.silent = False
                        await eventually(health_is(client, agents=2))

                        async def is_stopped() -> bool:
                            return not runner.is_running()

                        await eventually(is_stopped)  # what it ran is not wanted any more
                        await client.cancel(job)
                        assert (await client.poll(job))["description"].endswith("[cancelled]")
                        assert [each["outcome"] for each in await tries(client, job)] == ["lost", "cancelled"]
                        assert (await client.run("hello")).status == "COMPLETED"


@pytest.fixture(scope="module")
def quick(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}")
    fabric = start_fabric(tmp_path_factory.mktemp("quick") / "data", *model, **QUICK)
    yield fabric
    assert fabric.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("word", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "dies"])
async def test_a_drain_comes_to_its_end_though_the_agent(
    word: signal.Signals, quick: Fabric, blobs: Path
) -> None:
    async with Replayer(quick.url, blobs) as client:
        job = await client.submit("endless")
        await eventually(runs(client, job, 1))
        agent = psutil.Process(quick.pid("agent"))
        assert quick.edif("drain") == {"draining": True, "running": 1}
        agent.send_signal(word)
        await eventually(health_is(client, running=0, draining=True))
        await eventually(says(client, job, "The fabric begins no jobs for a while"))
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.resume()
        await eventually(health_is(client, agents=1))
        assert await health_is(client, running=0)(), "the drain goes on"
        quick.edif("resume")
        await eventually(runs(client, job, 2))
        await client.cancel(job)
        await client.poll(job)
        assert [each["outcome"] for each in await tries(client, job)] == ["lost", "cancelled"]


@pytest.mark.slow
async def test_a_fabric_whose_agent_hangs_stops_and_keeps_its_job(
    models: dict[str, Path], blobs: Path, tmp_path: Path
) -> None:
    model = ("--model", f"{GPT2_ID}={models[GPT2_ID]}")
    fabric = start_fabric(tmp_path / "data", *model, **QUICK)
    async with Replayer(fabric.url, blobs) as client:
        job = await client.submit("endless")
        await eventually(runs(client, job, 1))
        agent = psutil.Process(fabric.pid("agent"))
        family = [agent, *agent.children(recursive=True)]
        agent.suspend()
        assert fabric.stop() == 0
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left
    again = start_fabric(tmp_path / "data", *model, **QUICK)
    try:
        async with Replayer(again.url, blobs) as client:
            await eventually(runs(client, job, 2))
            await client.cancel(job)
            assert (await client.poll(job))["description"].endswith("[cancelled]")
            assert [each["outcome"] for each in await tries(client, job)] == ["lost", "cancelled"]
    finally:
        assert again.stop() == 0
