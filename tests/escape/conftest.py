"""One sealed fabric, and one process each that runs all attacks on it and without it, at the same time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.escape.catalogue import ATTACKS, catalogue
from tests.support.fabric import Fabric, clean_environment, start_fabric
from tests.support.models import GPT2_ID
from tests.support.tls import light_certificates

HERE = Path(__file__).parent
MIB = 2**20
TIMEOUT_S = 150
PLANTED = "SECRET-9f3a7c51e2d04b86"

# How far a bomb goes. Without walls it must not go far; against them it must go further than is allowed.
BARE_SIZES: dict[str, Any] = {
    "forks": 20,
    "threads": 100,
    "memory": 64 * MIB,
    "kernel_memory": 8 * MIB,
    "descriptors": 600,
    "disk": 32 * MIB,
    "inodes": 20_000,
    "result_bytes": 32 * MIB,
    "print_bytes": 2 * MIB,
    "frames": 50,
    "flood": False,
}
SEALED_SIZES = {**BARE_SIZES, "threads": 2_000, "memory": 1024 * MIB, "kernel_memory": 256 * MIB}
SEALED_SIZES |= {"frames": 300, "flood": True}

Seen = dict[str, dict[str, Any]]


@dataclass(frozen=True, repr=False)
class Outcome:
    """What each attack brought about, by name, and the fabric that was attacked, still running.

    Attributes:
        keys: of the user whose jobs the attacks were, and of another one.
        settled: the fabric's processes were the same ones before and after all attacks.
    """

    sealed: Seen
    bare: Seen
    fabric: Fabric
    keys: dict[str, str]
    settled: bool


@pytest.fixture(scope="session")
def outcome(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("escape")
    up = folder / "up.json"
    fabric = start_fabric(
        folder / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}"),
        EDIF_ISOLATION="sealed",
        EDIF_TIME_LIMIT_S="2",
        EDIF_MEMORY_LIMIT_BYTES="512MiB",
        EDIF_SCRATCH_LIMIT_BYTES="16MiB",
        EDIF_RESULT_LIMIT_BYTES="4MiB",
        EDIF_LOG_LIMIT_BYTES="20000",
        EDIF_MIN_FREE_BYTES="0",
        PLANTED_SECRET=PLANTED,
    )
    try:
        plans = {"bare": _bare_plan(folder, models), "client": _client_plan(folder, models, up)}
        bare = _process("bare", plans["bare"], clean_environment(PLANTED_SECRET=PLANTED))
        with bare as without_wall:
            fabric.wait_metadata(GPT2_ID)
            keys = {name: _admit(fabric, name) for name in ("ada", "mallory")}
            environment = fabric.client_environment(folder / "hub", keys["ada"]) | light_certificates(folder)
            with _process("client", plans["client"], environment) as client:
                fabric.wait_running(GPT2_ID)
                before = _pids(fabric)
                up.write_text(json.dumps({"pids": before, "data": str(fabric.data), "planted": PLANTED}))
                _join(client, plans["client"])
            _join(without_wall, plans["bare"])
        seen = {name: json.loads(plan.with_suffix(".out").read_text()) for name, plan in plans.items()}
        yield Outcome(seen["client"], seen["bare"], fabric, keys, before == _pids(fabric))
    finally:
        fabric.stop()


def _bare_plan(folder: Path, models: dict[str, Path]) -> Path:
    return _plan(folder / "bare.json", model=models[GPT2_ID], sizes=BARE_SIZES)


def _client_plan(folder: Path, models: dict[str, Path], up: Path) -> Path:
    return _plan(
        folder / "client.json",
        model=GPT2_ID,
        sizes=SEALED_SIZES,
        up=up,
        readable=models[GPT2_ID] / "config.json",
    )


def _plan(file: Path, **plan: Any) -> Path:
    names = [attack.name for attack in catalogue()]
    where = {"folder": file.with_suffix(""), "out": file.with_suffix(".out"), "attacks": ATTACKS}
    file.write_text(json.dumps({**plan, **where, "names": names}, default=str))
    return file


def _admit(fabric: Fabric, name: str) -> str:
    fabric.edif("users", "add", name, "--email", f"{name}@uni.example")
    return str(fabric.edif("keys", "create", "--user", name)["key"])


def _pids(fabric: Fabric) -> dict[str, int]:
    """The fabric's processes; the zygote is the agent's one child, the runners are its."""
    agent = fabric.pid("agent")
    (zygote,) = psutil.Process(agent).children()
    return {"agent": agent, "gateway": fabric.pid("gateway"), "zygote": zygote.pid}


@contextmanager
def _process(script: str, plan: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    work = plan.with_name(f"{script}-cwd")
    work.mkdir()
    with plan.with_suffix(".log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, HERE / f"{script}.py", plan],
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _join(process: subprocess.Popen[bytes], plan: Path) -> None:
    assert process.wait(TIMEOUT_S) == 0, plan.with_suffix(".log").read_text()[-3000:]
