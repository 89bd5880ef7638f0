"""``python -m bench [NAME ...]``: run the measurements and print their tables."""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

MEASUREMENTS = (
    *("footprint", "latency", "clients", "capacity", "isolation", "sealed_memory", "shares", "crowd"),
    *("subscribers", "flood", "results", "slow_link"),
    "packing",  # the last one: it imports nnsight here, which gives every class a `save` that anyio, imported later, trips over
)


def main() -> None:
    names = sys.argv[1:] or MEASUREMENTS
    with tempfile.TemporaryDirectory(prefix="edif-bench-") as folder:
        for name in names:
            work = Path(folder) / name
            work.mkdir()
            print(import_module(f"bench.{name}").measure(work), flush=True)


main()
