"""Of several gateways one leads; when it dies another takes over, with every job that was accepted."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.servers.postgres import PostgresServer
from tests.support.fabric import EDIF, PATIENCE_S, clean_environment, start_fabric
from tests.support.models import GPT2_ID
from tests.support.ports import held_port
from tests.support.replay import Replayer


@dataclass
class Site:
    """Gateways that share a data folder and a record store, and one agent with a folder of its own.

    Attributes:
        record_store: a PostgreSQL database, or empty for SQLite in the data folder.
    """

    folder: Path
    model: str
    record_store: str
    ports: dict[str, tuple[int, socket.socket]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def url(self, name: str) -> str:
        if name not in self.ports:
            self.ports[name] = held_port()
        return f"http://127.0.0.1:{self.ports[name][0]}"

    def start_gateway(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        port = self.url(name).rpartition(":")[2]
        data = str(self.folder / "data")
        command = ("gateway", "--model", self.model, "--port", port, "--data", data, *arguments)
        return self._start(name, *command, EDIF_RECORD_STORE=self.record_store)

    def start_agent(self, *gateways: str) -> subprocess.Popen[bytes]:
        named = [part for name in gateways for part in ("--gateway", self.url(name))]
        token = (self.folder / "data" / "worker.token").read_text()
        data = str(self.folder / "agent")
        return self._start("agent", "agent", *named, "--data", data, EDIF_WORKER_TOKEN=token)

    def _start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [EDIF, *arguments],
                env=clean_environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.running[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def answers(self, name: str) -> bool:
        try:
            return httpx.get(f"{self.url(name)}/ping").status_code == 200
        except httpx.HTTPError:
            return False

    def has_model(self, name: str) -> bool:
        deployments = httpx.get(f"{self.url(name)}/status").json()["deployments"].values()
        return any(deployment["application_state"] == "RUNNING" for deployment in deployments)

    def wait(self, condition: Callable[[], bool]) -> float:
        """Wait until it holds; the seconds that it took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > PATIENCE_S:
                raise AssertionError({name: self.log(name)[-3000:] for name in self.running})
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=PATIENCE_S)
        for _, holder in self.ports.values():
            holder.close()


@pytest.fixture
def new_site(models: dict[str, Path], tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Makes the test's site, on this record store."""
    made: list[Site] = []

    def make(record_store: str) -> Site:
        made.append(Site(tmp_path, f"{GPT2_ID}={models[GPT2_ID]}", record_store))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, new_site: Callable[[str], Site]) -> Site:
    return new_site("" if request.param == "sqlite" else request.getfixturevalue("postgres").new_database())


def own_ports(pid: int) -> list[int]:
    """The ports from which a process speaks with others."""
    try:
        return [each.laddr.port for each in psutil.Process(pid).net_connections()]
    except psutil.Error:  # it has just ended
        return []


@pytest.mark.slow
async def test_standby_takes_over_with_all_jobs_and_the_agent_follows(site: Site, blobs: Path) -> None:
    site.start_gateway("a", "--standby")
    site.wait(lambda: site.answers("a"))
    site.start_gateway("b", "--standby")
    site.wait(lambda: "standing_by" in site.log("b"))
    assert not site.answers("b"), "it does not listen until it leads"
    site.start_agent("b", "a")
    site.wait(lambda: site.has_model("a"))
    async with Replayer(site.url("a"), blobs) as first:
        calm = (await first.run("slow")).result
        jobs = [await first.submit("slow"), await first.submit("slow")]
        for job in jobs:
            await first.until_running(job)
        jobs.append(await first.submit("hello"))
    site.kill("a")
    taken_over_s = site.wait(lambda: site.answers("b"))
    print(f"taken over in {taken_over_s:.1f} s")
    site.start_gateway("a", "--standby")
    async with Replayer(site.url("b"), blobs) as second:
        ends = [await second.poll(job) for job in jobs]
        assert [end["status"] for end in ends] == ["COMPLETED"] * 3
        assert [await second.fetch(end) for end in ends[:2]] == [calm, calm]
        tries = [end["meta"]["attempts"] for end in ends]
        assert tries[:2] == [1, 1], "the agent carried its jobs on"
        assert tries[2] <= 2, "its first try may have been on its way to the agent"
        assert all([await second.ended_once(job) for job in jobs])
        late = await second.submit("slow")
    site.wait(lambda: "standing_by" in site.log("a"))
    site.kill("b")
    site.wait(lambda: site.answers("a"))
    async with Replayer(site.url("a"), blobs) as third:
        assert (await third.poll(late))["status"] == "COMPLETED"
        assert await third.ended_once(late)
        assert (await third.run("hello")).status == "COMPLETED"


def test_second_gateway_that_is_not_to_wait_is_refused(site: Site) -> None:
    site.start_gateway("a")
    site.wait(lambda: site.answers("a"))
    assert site.start_gateway("b").wait(timeout=PATIENCE_S) == 1
    assert site.log("b").strip().splitlines()[-1].endswith("[data_in_use]")
    assert site.answers("a")


@pytest.mark.slow
async def test_leader_whose_lead_was_taken_ends_and_stands_by_when_started_again(
    new_site: Callable[[str], Site], postgres: PostgresServer
) -> None:
    """An administrator ended its sessions, until the other one was first."""
    site = new_site(postgres.new_database())
    leader = site.start_gateway("a", "--standby")
    site.wait(lambda: site.answers("a"))
    site.start_gateway("b", "--standby")
    site.wait(lambda: "standing_by" in site.log("b"))
    with postgres.connect(site.record_store.rpartition("/")[2]) as connection:
        while leader.poll() is None:  # it may be first again, and then nothing has happened
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(%s)",
                [own_ports(leader.pid)],
            )
            await asyncio.sleep(0.2)
    assert leader.returncode == 1
    assert "[lead_lost]" in site.log("a")
    site.wait(lambda: site.answers("b"))
    site.start_gateway("a", "--standby")
    site.wait(lambda: site.log("a").count("standing_by") == 1)
    assert not site.answers("a")


@pytest.mark.slow
def test_second_supervisor_waits_for_the_first_and_takes_its_agent_over(tmp_path: Path) -> None:
    first = start_fabric(tmp_path / "data", "--demo")
    second = subprocess.Popen(
        [EDIF, "serve", "--demo", "--standby", "--port", "0", "--data", str(tmp_path / "data")],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert second.stdout is not None
        assert b"takes over when it is gone" in second.stdout.readline()
        first.wait_running("edif/demo")
        agent = first.pid("agent")
        os.kill(first.process.pid, signal.SIGKILL)
        assert second.stdout.readline().startswith(b"eDIF is listening at " + first.url.encode())
        assert first.pid("agent") == agent
    finally:
        first.stop()
        second.send_signal(signal.SIGINT)
        assert second.wait(timeout=PATIENCE_S) == 0
        assert second.stdout is not None
        second.stdout.close()
