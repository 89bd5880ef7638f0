"""Results over a link of 100 Mbit/s: bytes that travel and seconds, packed and not, and one layer of twelve alone.

A network namespace has a loopback of its own; ``tc tbf`` gives it the rate (it needs root, and iproute2). Fabric and client run in it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.support.fabric import clean_environment

from bench.subjects import DEMO, DEMO_KEY, demo_fabric
from bench.tables import table

_CLIENT = Path(__file__).with_name("slow_link_client.py")
_RATE = "100mbit"
_MIB = 48
_ROUNDS = 3
_WAYS = {
    "stock": "stock client, uncompressed",
    "stock-compressed": "stock client, compressed",
    "connected": "edif.connect, compressed or packed as pays",
    "rounded": "the same, rounding to bfloat16",
    "slice": "edif.keep, one layer of twelve",
}


def measure(work: Path) -> str:
    """Run :func:`_inside` in a namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-m", "bench.slow_link"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[dict[str, dict[str, float]]]] = json.loads(done.stdout.splitlines()[-1])
    rows = []
    for kind, rounds in found.items():
        whole = median(each["stock"]["seconds"] for each in rounds)
        for way, name in _WAYS.items():
            seconds = [each[way]["seconds"] for each in rounds]
            sent = median(each[way]["bytes"] for each in rounds) / 2**20
            ratio = whole / median(seconds)
            rows.append((kind, name, f"{sent:.1f}", f"{median(seconds):.2f}", f"{ratio:.2f}x"))
    title = (
        f"{_MIB} MiB in twelve layers over 100 Mbit/s, from the end of the user's code (median of {_ROUNDS})"
    )
    return table(title, ("values", "way", "MiB on the wire", "seconds", "stock / this"), rows)


def _inside(work: Path) -> None:
    """With the loopback of this namespace slowed: what each way took, as JSON."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "lo",
            "root",
            "tbf",
            "rate",
            _RATE,
            "burst",
            "256kb",
            "latency",
            "100ms",
        ],
    ):
        subprocess.run(command, check=True)
    with demo_fabric(work, EDIF_ISOLATION="sealed", EDIF_MEMORY_LIMIT_BYTES="4GiB") as fabric:
        client = subprocess.run(
            [sys.executable, str(_CLIENT), str(DEMO), DEMO_KEY, str(_MIB), str(_ROUNDS)],
            env=clean_environment(NDIF_HOST=fabric.url, HF_HOME=str(work / "hf"), HF_HUB_OFFLINE="1"),
            cwd=work,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    print(client.stdout.splitlines()[-1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="edif-bench-") as folder:
        _inside(Path(folder))
