"""200 clients, each a user with a key, send small traces to one fabric; two real clients beside them verify values."""

import asyncio
import statistics
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from tests.support.fabric import Fabric, start_fabric
from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.people import add_people, gateway_bytes, gateway_seconds
from bench.subjects import DEMO, StockClients
from bench.tables import quantile, spread, table

_CLIENTS = 200
_TRACES = 2
_ROUNDS = 4
_CHECKING = ("checks-0", "checks-1")


class _Crowd:
    """One fabric with its 200 users, and what was measured on it."""

    def __init__(self, work: Path, isolation: str) -> None:
        users = [f"user-{number}" for number in range(_CLIENTS)]
        self.keys = add_people(work / isolation, (*users, *_CHECKING))
        self.users = users
        self.fabric: Fabric = start_fabric(work / isolation, "--demo", EDIF_ISOLATION=isolation)
        self.replayers: list[Replayer] = []
        self.checking: list[StockClients] = []
        self.times: list[float] = []
        self.rates: list[float] = []
        self.cpu_ms: list[float] = []
        self.most_bytes = 0
        self.lost = 0
        self.wrong = 0
        self.checked = 0

    async def send(self) -> None:
        """One round: every client sends its traces, one after another, all clients at once."""
        cpu, began = gateway_seconds(self.fabric), time.perf_counter()
        checks = [asyncio.to_thread(each.go, _TRACES) for each in self.checking]
        reports, *_ = await asyncio.gather(asyncio.gather(*checks), *map(self._client, self.replayers))
        jobs = _TRACES * (len(self.replayers) + len(self.checking))
        self.rates.append(jobs / (time.perf_counter() - began))
        self.cpu_ms.append((gateway_seconds(self.fabric) - cpu) / jobs * 1000)
        self.most_bytes = max(self.most_bytes, gateway_bytes(self.fabric))
        verified = [trace["right"] for (report,) in reports for trace in report["times"]]
        self.checked += len(verified)
        self.wrong += verified.count(False)

    async def _client(self, replayer: Replayer) -> None:
        for _ in range(_TRACES):
            outcome = await replayer.run("hidden")
            self.times.append(outcome.seconds)
            self.lost += outcome.status != "COMPLETED"


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    with ExitStack() as stack:
        crowds = {}
        for isolation in ("shared", "sealed"):
            crowds[isolation] = crowd = _Crowd(work, isolation)
            stack.callback(crowd.fabric.stop)
            crowd.fabric.wait_running("edif/demo")
            crowd.checking = [
                stack.enter_context(StockClients(crowd.fabric.url, 1, work, key=crowd.keys[name], check=True))
                for name in _CHECKING
            ]
        asyncio.run(_rounds(crowds, blobs))
    return table(
        f"{_CLIENTS} clients with a key each, {_ROUNDS} rounds of {_TRACES} small traces in turn, demo model",
        (
            "",
            "jobs/s",
            "whole trace p50, s",
            "p99, s",
            "gateway, CPU ms/job",
            "gateway, PSS MiB",
            "lost",
            "wrong values",
        ),
        [
            (
                name,
                spread(crowd.rates),
                f"{quantile(crowd.times, 0.5):.2f}",
                f"{quantile(crowd.times, 0.99):.2f}",
                f"{statistics.median(crowd.cpu_ms):.1f}",
                f"{crowd.most_bytes / 2**20:.0f}",
                crowd.lost,
                f"{crowd.wrong} of {crowd.checked}",
            )
            for name, crowd in crowds.items()
        ],
    )


async def _rounds(crowds: dict[str, _Crowd], blobs: Path) -> None:
    async with AsyncExitStack() as stack:
        for crowd in crowds.values():
            for user in crowd.users:
                replayer = Replayer(crowd.fabric.url, blobs, model="edif/demo", key=crowd.keys[user])
                crowd.replayers.append(await stack.enter_async_context(replayer))
            await crowd.replayers[0].run("hidden")
        for _ in range(_ROUNDS):
            for crowd in crowds.values():
                await crowd.send()
