"""One fabric and one family of client processes for the whole suite.

The local client runs while the fabric brings its models up. Then one remote client runs every program, and a
second one another script under the file name that the first one used last. The fabric is stopped before the
first test looks: the tests only compare what the clients wrote down.
"""

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

import pytest
import torch

from tests.conformance.catalogue import FAMILIES, PROGRAMS, catalogue
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID, LLAMA_ID, LORA_ID

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
DEMO_ID = "edif/demo"
DEMO_FOLDER = HERE.parents[1] / "src" / "edif" / "models" / "demo"
CLIENT_TIMEOUT_S = 500
USER, EMAIL = "ada", "ada@uni.example"

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, repr=False)  # pytest would write all of it out for each failure
class Outcome:
    """What the clients wrote down, by program: ``returned``, or ``error``, and ``seconds``.

    Attributes:
        local: every program and both scripts, run on the same weights in a process without a fabric.
        remote: every program and the first script, run on the fabric.
        second: the second script, run on the fabric right after them by another process.
    """

    local: Results
    remote: Results
    second: Results


@pytest.fixture(scope="session", params=["sealed", "shared"])
def outcome(
    request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    folder = tmp_path_factory.mktemp("conformance")
    up = folder / "the fabric is up"
    fabric = start_fabric(
        folder / "data",
        "--demo",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}"),
        *("--model", f"{LLAMA_ID}={models[LLAMA_ID]}"),
        EDIF_ISOLATION=request.param,
        EDIF_MERGE="always",
        EDIF_MERGE_WAIT_S="0",  # for there is one client alone
        EDIF_ADAPTERS=json.dumps({LORA_ID: str(models[LORA_ID])}),
    )
    try:
        key = _admit_user(fabric)
        plans = [_local_plan(folder, models), *_remote_plans(folder, wait_for=up)]
        environment = fabric.client_environment(folder / "hub", key)
        with _client(plans, environment, folder / "client.log") as client:
            for model in (GPT2_ID, LLAMA_ID, DEMO_ID):
                fabric.wait_running(model)
            up.touch()
            assert client.wait(CLIENT_TIMEOUT_S) == 0, (folder / "client.log").read_text()[-3000:]
    finally:
        fabric.stop()
    return Outcome(*(torch.load(plan.with_suffix(".pt")) for plan in plans))


@contextmanager
def _client(plans: list[Path], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        client = subprocess.Popen(
            [sys.executable, HERE / "client.py", *plans],
            # Compiled files are chosen by time of change, and one script takes another's place in a second.
            # And the local run is to compute like the fabric, where a row has the same bits in every batch.
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1", "MKL_CBWR": "AUTO,STRICT"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield client
        finally:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)  # with whatever it forked
            client.wait()


def _admit_user(fabric: Fabric) -> str:
    """Close the fabric to all but one user, and return that user's key."""
    for model in (GPT2_ID, LLAMA_ID, LORA_ID, DEMO_ID):
        fabric.wait_metadata(model)
    fabric.edif("users", "add", USER, "--email", EMAIL)
    return str(fabric.edif("keys", "create", "--user", USER)["key"])


def _local_plan(folder: Path, models: dict[str, Path]) -> Path:
    return _plan(
        folder / "local.json",
        mode="local",
        folder=folder / "local",
        copies=_programs()
        | {"experiment.py": SCRIPTS / "first.py", "experiment_of_another.py": SCRIPTS / "second.py"},
        families={
            "gpt2": {"model": models[GPT2_ID], "lora": models[LORA_ID]},
            "llama": {"model": models[LLAMA_ID]},
            "demo": {"model": DEMO_FOLDER},
        },
        programs=[*_everything(), *_script("experiment"), *_script("experiment_of_another")],
        wait_for="",
    )


def _remote_plans(folder: Path, wait_for: Path) -> list[Path]:
    families = {
        "gpt2": {"model": GPT2_ID, "lora": LORA_ID},
        "llama": {"model": LLAMA_ID},
        "demo": {"model": DEMO_ID},
    }
    # Named as our package is: a user's folder may have any name, and tracebacks show the lines in it.
    place = folder / "home" / "edif" / "work"
    first = _plan(
        folder / "remote.json",
        mode="remote",
        folder=place,
        copies=_programs() | {"experiment.py": SCRIPTS / "first.py"},
        families=families,
        programs=[*_everything(), *_script("experiment")],
        wait_for=wait_for,
    )
    second = _plan(
        folder / "second.json",
        mode="remote",
        folder=place,
        copies={"experiment.py": SCRIPTS / "second.py"},
        families=families,
        programs=_script("experiment"),
        wait_for="",
    )
    return [first, second]


def _plan(file: Path, **plan: Any) -> Path:
    plan["folder"].mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**plan, "out": file.with_suffix(".pt")}, default=str))
    return file


def _programs() -> dict[str, Path]:
    return {path.name: path for path in PROGRAMS.glob("*.py")}


def _everything() -> list[tuple[str, str, str]]:
    return [(program.module, program.name, program.family) for program in catalogue()]


def _script(module: str) -> list[tuple[str, str, str]]:
    return [(module, "experiment", family) for family in FAMILIES]
