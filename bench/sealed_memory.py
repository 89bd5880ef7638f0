"""What a running sealed job has of its own, on a model of 1 GB: four at once, then ten in a row."""

import asyncio
import statistics
from collections.abc import Awaitable
from pathlib import Path

import psutil
from tests.support.fabric import Fabric, start_fabric
from tests.support.mint import mint
from tests.support.replay import Outcome, Replayer

from bench.subjects import make_gpt2
from bench.tables import table

_MODEL = "bench/one-gb"
_AT_ONCE = 4
_IN_A_ROW = 10
_SAMPLE_S = 0.05
MB = 1_000_000


def measure(work: Path) -> str:
    folder = make_gpt2(work / "one-gb", n_embd=1600, n_layer=8, n_head=16)
    blobs = mint(folder, work / "blobs")
    fabric = start_fabric(work / "data", "--model", f"{_MODEL}={folder}", EDIF_ISOLATION="sealed")
    try:
        fabric.wait_running(_MODEL, 300)
        return asyncio.run(_measure(fabric, blobs, _weights(folder)))
    finally:
        fabric.stop()


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


async def _measure(fabric: Fabric, blobs: Path, weights: int) -> str:
    zygote = psutil.Process(fabric.pid("agent")).children()[0]
    rows = []
    async with Replayer(fabric.url, blobs, _MODEL) as client:
        together = await _sampled(zygote, asyncio.gather(*(client.run("slow") for _ in range(_AT_ONCE))))
        rows.append(_row(f"{_AT_ONCE} at once", together, weights))
        alone = []
        for _ in range(_IN_A_ROW):
            alone += await _sampled(zygote, asyncio.gather(client.run("slow")))
        rows.append(_row(f"{_IN_A_ROW} in a row", alone, weights))
    columns = ("", "private memory, MB: median", "largest", "largest, of the weights")
    return table(
        f"Private memory of the processes of sealed jobs, {weights / MB:,.0f} MB of weights", columns, rows
    )


async def _sampled(zygote: psutil.Process, jobs: Awaitable[list[Outcome]]) -> list[int]:
    """The largest private memory of each process that lived while the jobs ran, those that stand ready included."""
    running = asyncio.ensure_future(jobs)
    largest: dict[int, int] = {}
    while not running.done():
        await asyncio.sleep(_SAMPLE_S)
        for child in zygote.children():
            try:
                largest[child.pid] = max(largest.get(child.pid, 0), child.memory_full_info().uss)
            except psutil.NoSuchProcess:
                continue
    assert {outcome.status for outcome in running.result()} == {"COMPLETED"}
    return list(largest.values())


def _row(name: str, private: list[int], weights: int) -> tuple[str, str, str, str]:
    most = max(private)
    return name, f"{statistics.median(private) / MB:.1f}", f"{most / MB:.1f}", f"{most / weights:.1%}"
