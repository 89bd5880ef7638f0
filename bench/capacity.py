"""How many small jobs a second the fabric carries, with recorded requests from one asyncio process."""

import asyncio
import time
from pathlib import Path

from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.subjects import DEMO, demo_fabric
from bench.tables import quantile, table

_JOBS = 400


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    rows = []
    with demo_fabric(work) as fabric:
        for clients in (1, 8, 32):
            seconds, times, lost = asyncio.run(_load(fabric.url, blobs, clients))
            rows.append(
                (
                    clients,
                    f"{_JOBS / seconds:.1f}",
                    f"{quantile(times, 0.5) * 1000:.1f}",
                    f"{quantile(times, 0.99) * 1000:.1f}",
                    lost,
                )
            )
    return table(
        f"Capacity, {_JOBS} recorded small traces, demo model",
        ("clients", "jobs/s", "p50 ms", "p99 ms", "lost"),
        rows,
    )


async def _load(url: str, blobs: Path, clients: int) -> tuple[float, list[float], int]:
    times: list[float] = []
    lost = 0
    async with Replayer(url, blobs, model="edif/demo") as client:
        await client.run("hidden")
        left = iter(range(_JOBS))

        async def one_client() -> None:
            nonlocal lost
            for _ in left:
                outcome = await client.run("hidden")
                times.append(outcome.seconds)
                lost += outcome.status != "COMPLETED"

        began = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        return time.perf_counter() - began, times, lost
