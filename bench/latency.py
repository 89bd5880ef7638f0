"""One small trace: what the server adds, and the whole remote trace against the same trace locally."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.mint import mint
from tests.support.replay import Replayer

from bench.subjects import DEMO, StockClients, bare_server, demo_fabric
from bench.tables import quantile, spread, table

_TRACES = 200
_STOCK_TRACES = 60


def measure(work: Path) -> str:
    blobs = mint(DEMO, work / "blobs")
    with demo_fabric(work) as fabric:
        metas = asyncio.run(_replay(fabric.url, blobs))
        with bare_server() as bare:
            rows = []
            for name, url, local in (
                ("local", fabric.url, True),
                ("bare server", bare, False),
                ("eDIF", fabric.url, False),
            ):
                with StockClients(url, 1, work, local=local) as client:
                    rows.append((name, client.go(_STOCK_TRACES)[0]["times"]))
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
    local_ms = quantile([t["s"] for t in rows[0][1]], 0.5) * 1000
    cells = []
    for name, times in rows:
        whole = [t["s"] for t in times]
        inside = [t["total_s"] for t in times]
        own = "-" if name != "eDIF" else f"{quantile([t['s'] - t['total_s'] for t in times], 0.5) * 1000:.1f}"
        cells.append(
            (
                name,
                spread(whole, 0.001),
                f"{quantile(whole, 0.5) * 1000 / local_ms:.1f}x",
                spread(inside, 0.001) if name == "eDIF" else "-",
                own,
            )
        )
    whole_table = table(
        "Whole trace by the stock client, one client, demo model (ms)",
        ("", "median (min-max)", "against local", "inside the fabric", "client and transport"),
        cells,
    )
    return server + "\n" + whole_table


async def _replay(url: str, blobs: Path) -> list[dict[str, Any]]:
    async with Replayer(url, blobs, model="edif/demo") as client:
        for _ in range(20):
            await client.run("hidden")
        return [(await client.run("hidden")).final["meta"] for _ in range(_TRACES)]
