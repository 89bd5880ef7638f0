"""``python -m bench [--quick] [NAME ...]``: run the measurements and print their tables.

``--quick`` is for those of :data:`HAVE_QUICK`: a run that shows that all works, and whose figures say nothing.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

MEASUREMENTS = (
    *("footprint", "latency", "clients", "capacity", "isolation", "sealed_memory", "shares", "crowd"),
    *("subscribers", "flood", "results", "slow_link", "merging", "misfits"),
    "packing",  # the last one: it imports nnsight here, which gives every class a `save` that anyio, imported later, trips over
)
HAVE_QUICK = frozenset({"merging", "misfits"})


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    names = [each for each in sys.argv[1:] if each != "--quick"] or MEASUREMENTS
    if quick and not HAVE_QUICK.issuperset(names):
        sys.exit(f"--quick is for {', '.join(sorted(HAVE_QUICK))} alone")
    with tempfile.TemporaryDirectory(prefix="edif-bench-") as folder:
        for name in names:
            work = Path(folder) / name
            work.mkdir()
            measure = import_module(f"bench.{name}").measure
            print(measure(work, quick=True) if quick else measure(work), flush=True)


main()
