"""A gateway and agents as they run on machines of their own: without a supervisor, and with no folder in common."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fabric import EDIF, PATIENCE_S, Fabric, clean_environment


@contextmanager
def gateway_alone(data: Path, *arguments: str, **environment: str) -> Iterator[Fabric]:
    """``edif gateway`` on a free port, with these further arguments and ``EDIF_*`` variables, while entered."""
    variables = clean_environment(EDIF_LOG_JSON="true", **environment)
    process = subprocess.Popen(
        [EDIF, "gateway", "--port", "0", "--data", str(data), *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    gateway = Fabric(process, data, "", variables)
    try:
        facts = data / "run" / "gateway.json"
        deadline = time.monotonic() + PATIENCE_S
        while not facts.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gateway.url = json.loads(facts.read_text())["url"]
        yield gateway
    finally:
        process.terminate()
        gateway.stop()


@contextmanager
def agent_alone(
    gateway: Fabric, data: Path, seen_at: str = "", **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``edif agent`` for this gateway, which it sees ``seen_at`` another URL, if one is given; its log is ``DATA.log``."""
    token = (gateway.data / "worker.token").read_text()
    with data.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [EDIF, "agent", "--gateway", seen_at or gateway.url, "--data", str(data)],
            env=clean_environment(EDIF_WORKER_TOKEN=token, EDIF_LOG_JSON="true", **environment),
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
