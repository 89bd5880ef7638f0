"""What closing jobs in costs: a sealed and a shared fabric side by side, on a small and on a larger model."""

import asyncio
import statistics
from pathlib import Path

from tests.support.fabric import start_fabric
from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.subjects import DEMO, make_gpt2
from bench.tables import spread, table

_ROUNDS = 8
_LATENCY_JOBS = 20
_LOAD_JOBS = 64
_CLIENTS = 8


def measure(work: Path) -> str:
    larger = make_gpt2(work / "gpt2-small")
    tables = [
        asyncio.run(_compare(work / "demo", "edif/demo", DEMO, "4-layer demo model")),
        asyncio.run(
            _compare(work / "small", "bench/gpt2-small", larger, "GPT-2-small size, 12 layers, 768 wide")
        ),
    ]
    return "\n".join(tables)


async def _compare(work: Path, model: str, folder: Path, title: str) -> str:
    blobs = mint(folder, work / "blobs")
    fabrics = {
        isolation: start_fabric(work / isolation, "--model", f"{model}={folder}", EDIF_ISOLATION=isolation)
        for isolation in ("shared", "sealed")
    }
    try:
        for fabric in fabrics.values():
            fabric.wait_running(model, 180)
        times: dict[str, list[float]] = {name: [] for name in fabrics}
        rates: dict[str, list[float]] = {name: [] for name in fabrics}
        clients = {name: Replayer(fabric.url, blobs, model=model) for name, fabric in fabrics.items()}
        for client in clients.values():
            await client.run("hidden")
        for _ in range(_ROUNDS):
            for name, client in clients.items():
                times[name].append(await _latency(client))
                rates[name].append(await _load(client))
        for client in clients.values():
            await client.close()
    finally:
        for fabric in fabrics.values():
            fabric.stop()
    rows = [
        (
            name,
            spread(times[name], 0.001),
            f"{(statistics.median(times[name]) - statistics.median(times['shared'])) * 1000:+.1f}",
            f"{statistics.median(times[name]) / statistics.median(times['shared']):.2f}x",
            spread(rates[name]),
        )
        for name in fabrics
    ]
    columns = (
        "",
        "one client, whole trace, ms",
        "over shared, ms",
        "over shared",
        f"{_CLIENTS} clients, jobs/s",
    )
    return table(f"Sealed and shared in turn, {title}, recorded requests", columns, rows)


async def _latency(client: Replayer) -> float:
    """The median time of a trace, with the pause of a person's loop between two."""
    seconds = []
    for _ in range(_LATENCY_JOBS):
        await asyncio.sleep(0.05)
        seconds.append((await client.run("hidden")).seconds)
    return statistics.median(seconds)


async def _load(client: Replayer) -> float:
    left = iter(range(_LOAD_JOBS))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one_client() -> None:
        for _ in left:
            outcome = await client.run("hidden")
            assert outcome.status == "COMPLETED", outcome.description

    await asyncio.gather(*(one_client() for _ in range(_CLIENTS)))
    return _LOAD_JOBS / (loop.time() - began)
