"""What is measured: a fabric, a bare server, stock clients, all as processes of their own."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.fabric import Fabric, clean_environment, start_fabric

import edif
from edif.models.model_key import format_model_key

DEMO = Path(edif.__file__).parent / "models" / "demo"
DEMO_KEY = format_model_key("edif/demo", None, "text-generation", False)
_CLIENT = Path(__file__).with_name("stock_client.py")


@contextmanager
def demo_fabric(work: Path, **settings: str) -> Iterator[Fabric]:
    fabric = start_fabric(work / "data", "--demo", **settings)
    try:
        fabric.wait_running("edif/demo")
        yield fabric
    finally:
        fabric.stop()


@contextmanager
def bare_server(folder: Path = DEMO) -> Iterator[str]:
    """The yardstick server on a free port; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bare_server", str(port), str(folder)], env=clean_environment()
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class StockClients:
    """Several stock clients that were imported once and run together when told to."""

    def __init__(self, url: str, count: int, traces: int, work: Path, *, local: bool = False) -> None:
        self._gate = work / f"gate-{time.monotonic_ns()}"
        variables = clean_environment(NDIF_HOST=url, HF_HOME=str(work / "hf"), HF_HUB_OFFLINE="1")
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(_CLIENT),
                    str(DEMO),
                    "local" if local else DEMO_KEY,
                    str(traces),
                    str(self._gate),
                    str(index),
                ],
                env=variables,
                cwd=work,
                stdout=subprocess.PIPE,
            )
            for index in range(count)
        ]
        for index in range(count):
            while not Path(f"{self._gate}.ready.{index}").exists():
                if self._processes[index].poll() is not None:
                    raise RuntimeError("a stock client ended early")
                time.sleep(0.02)

    def go(self) -> list[dict[str, Any]]:
        """Open the gate and return what each client measured."""
        self._gate.touch()
        return [json.loads(process.communicate()[0]) for process in self._processes]


def jobs_per_second(reports: list[dict[str, Any]]) -> float:
    jobs = sum(len(report["times"]) for report in reports)
    return jobs / (max(report["end"] for report in reports) - min(report["start"] for report in reports))
