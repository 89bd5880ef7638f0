"""Eight stock clients at once: the fabric against the bare server, in turn."""

import statistics
from pathlib import Path

from bench.subjects import StockClients, bare_server, demo_fabric, jobs_per_second
from bench.tables import spread, table

_CLIENTS = 8
_TRACES = 10
_ROUNDS = 12
_PEER_JOBS_PER_S = 16.7


def measure(work: Path) -> str:
    rates: dict[str, list[float]] = {"eDIF": [], "bare server": []}
    with (
        demo_fabric(work) as fabric,
        bare_server() as bare,
        StockClients(fabric.url, _CLIENTS, work) as ours,
        StockClients(bare, _CLIENTS, work) as theirs,
    ):
        # Short rounds in turn: on a shared machine, only neighbours in time can be compared.
        for _ in range(_ROUNDS):
            for name, clients in (("eDIF", ours), ("bare server", theirs)):
                rates[name].append(jobs_per_second(clients.go(_TRACES)))
    ratios = [mine / bare for mine, bare in zip(*rates.values(), strict=True)]
    return table(
        f"{_CLIENTS} stock clients at once, 4-layer model, {_ROUNDS} rounds in turn (jobs/s)",
        ("", "median (min-max)", "against the bare server", "against the peer's 16.7"),
        [
            (
                "eDIF",
                spread(rates["eDIF"]),
                f"{spread(ratios, digits=2)} x",
                f"{statistics.median(rates['eDIF']) / _PEER_JOBS_PER_S:.2f}x",
            ),
            ("bare server", spread(rates["bare server"]), "1", "-"),
        ],
    )
