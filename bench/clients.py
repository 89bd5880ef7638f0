"""Eight stock clients at once: the fabric against the bare server, in turn."""

import statistics
from pathlib import Path

from bench.subjects import StockClients, bare_server, demo_fabric, jobs_per_second
from bench.tables import spread, table

_CLIENTS = 8
_TRACES = 25
_ROUNDS = 3
_PEER_JOBS_PER_S = 16.7


def measure(work: Path) -> str:
    rates: dict[str, list[float]] = {"eDIF": [], "bare server": []}
    with demo_fabric(work) as fabric, bare_server() as bare:
        for _ in range(_ROUNDS):
            for name, url in (("eDIF", fabric.url), ("bare server", bare)):
                reports = StockClients(url, _CLIENTS, _TRACES, work).go()
                rates[name].append(jobs_per_second(reports))
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    return table(
        f"{_CLIENTS} stock clients at once, 4-layer model, {_ROUNDS} rounds in turn (jobs/s)",
        ("", "median (min-max)", "against the bare server", "against the peer's 16.7"),
        [
            (
                "eDIF",
                spread(rates["eDIF"]),
                spread(ratios).replace(" ", "x ", 1),
                f"{statistics.median(rates['eDIF']) / _PEER_JOBS_PER_S:.2f}x",
            ),
            ("bare server", spread(rates["bare server"]), "1", "-"),
        ],
    )
