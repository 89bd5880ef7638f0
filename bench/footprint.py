"""Memory and processes of an idle fabric, and the time from the command to the first result."""

import asyncio
import statistics
import time
from pathlib import Path

import psutil
from tests.support.fabric import start_fabric
from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.subjects import DEMO
from bench.tables import spread, table

_STARTS = 5


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    cold: list[float] = []
    for number in range(_STARTS):
        began = time.perf_counter()
        fabric = start_fabric(work / f"data{number}", "--demo")
        try:
            asyncio.run(_first_result(fabric.url, blobs))
            cold.append(time.perf_counter() - began)
            if number == _STARTS - 1:
                time.sleep(2)
                rows = _processes(psutil.Process(fabric.process.pid))
        finally:
            fabric.stop()
    total = sum(pss for _, pss, _ in rows)
    cells = [(name, f"{pss / 2**20:.0f}", f"{rss / 2**20:.0f}") for name, pss, rss in rows]
    cells.append((f"together: {len(rows)} processes", f"{total / 2**20:.0f}", "-"))
    return (
        table("Idle fabric with the demo model (MiB)", ("process", "PSS", "RSS"), cells)
        + "\n"
        + table(
            "Cold start to first result (s)",
            ("", "median (min-max)", "against the peer's 38-54 s"),
            [("edif serve --demo", spread(cold), f"{statistics.median(cold) / 38:.2f}x")],
        )
    )


async def _first_result(url: str, blobs: Path) -> None:
    async with Replayer(url, blobs, model="edif/demo") as client:
        outcome = await client.run("hello")
        assert outcome.status == "COMPLETED"


def _processes(root: psutil.Process) -> list[tuple[str, int, int]]:
    names = {"serve": "supervisor", "gateway": "gateway", "agent": "agent"}
    rows = []
    for process in (root, *root.children(recursive=True)):
        words = process.cmdline()
        role = next((label for word, label in names.items() if word in words), None)
        if role is None:
            role = "zygote" if process.children() else "runner"
        memory = process.memory_full_info()
        rows.append((role, memory.pss, memory.rss))
    return rows
