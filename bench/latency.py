"""One small trace: what the server adds, and the whole remote trace against the same trace locally."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.subjects import DEMO, StockClients, bare_server, demo_fabric
from bench.tables import quantile, spread, table

_TRACES = 200
_STOCK_TRACES = 30
_ROUNDS = 4


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    with demo_fabric(work) as fabric:
        metas = asyncio.run(_replay(fabric.url, blobs))
        with bare_server() as bare, ExitStack() as stack:
            clients = {
                "local": StockClients(fabric.url, 1, work, local=True),
                "bare server": StockClients(bare, 1, work),
                "eDIF": StockClients(fabric.url, 1, work),
                "eDIF by edif.connect": StockClients(fabric.url, 1, work, connected=True),
            }
            times: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
            for client in clients.values():
                stack.enter_context(client)
            for _ in range(_ROUNDS):
                for name, client in clients.items():
                    times[name] += client.go(_STOCK_TRACES)[0]["times"]
    added = [(meta["total_s"] - meta["run_s"]) * 1000 for meta in metas]
    server = table(
        "Server-added time, small trace, demo model (ms)",
        ("", "p50", "p90", "p99"),
        [
            (
                "request received to COMPLETED, less execution",
                *(f"{quantile(added, q):.1f}" for q in (0.5, 0.9, 0.99)),
            ),
            (
                "execution",
                *(f"{quantile([m['run_s'] * 1000 for m in metas], q):.1f}" for q in (0.5, 0.9, 0.99)),
            ),
        ],
    )
    local_ms = quantile([t["s"] for t in times["local"]], 0.5) * 1000
    cells = []
    for name, traces in times.items():
        whole = [t["s"] for t in traces]
        whole_ms = quantile(whole, 0.5) * 1000
        inside = [t["total_s"] for t in traces]
        own = quantile([t["s"] - t["total_s"] for t in traces], 0.5) * 1000
        told = (spread(inside, 0.001), f"{own:.1f}") if name.startswith("eDIF") else ("-", "-")
        cells.append(
            (
                name,
                spread(whole, 0.001),
                f"{whole_ms / local_ms:.1f}x",
                f"{whole_ms - local_ms:+.1f}",
                *told,
            )
        )
    whole_table = table(
        f"Whole trace, one client, demo model, {_ROUNDS} rounds of {_STOCK_TRACES} in turn (ms)",
        ("", "median (min-max)", "against local", "over local", "inside the fabric", "client and transport"),
        cells,
    )
    return server + "\n" + whole_table


async def _replay(url: str, blobs: Path) -> list[dict[str, Any]]:
    async with Replayer(url, blobs, model="edif/demo") as client:
        for _ in range(20):
            await client.run("hidden")
        return [(await client.run("hidden")).final["meta"] for _ in range(_TRACES)]
