"""``python -m bench [NAME ...]``: run the measurements and print their tables."""

import sys
import tempfile
from pathlib import Path

from bench import (
    capacity,
    clients,
    crowd,
    flood,
    footprint,
    isolation,
    latency,
    packing,
    results,
    sealed_memory,
    shares,
    slow_link,
    subscribers,
)

MEASUREMENTS = {
    "footprint": footprint.measure,
    "latency": latency.measure,
    "clients": clients.measure,
    "capacity": capacity.measure,
    "isolation": isolation.measure,
    "sealed_memory": sealed_memory.measure,
    "shares": shares.measure,
    "crowd": crowd.measure,
    "subscribers": subscribers.measure,
    "flood": flood.measure,
    "results": results.measure,
    "slow_link": slow_link.measure,
    "packing": packing.measure,
}


def main() -> None:
    names = sys.argv[1:] or list(MEASUREMENTS)
    with tempfile.TemporaryDirectory(prefix="edif-bench-") as folder:
        for name in names:
            work = Path(folder) / name
            work.mkdir()
            print(MEASUREMENTS[name](work), flush=True)


main()
