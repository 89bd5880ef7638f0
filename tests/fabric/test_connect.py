"""Stock nnsight code on a connection of ``edif.connect``: what ``tests/fabric/connected.py`` does in one real client."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sizes import SIZES
from tests.support.fabric import Fabric, start_fabric
from tests.support.models import GPT2_ID

PROGRAM = Path(__file__).with_name("connected.py")
SCENARIOS = [
    name
    for file in (PROGRAM, PROGRAM.with_name("connected_values.py"))
    for name in re.findall(r"^def (\w+)\(here: Here\)", file.read_text(), re.MULTILINE)
]
CLIENT_TIMEOUT_S = 550


@pytest.fixture(scope="module")
def outcomes(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each scenario, by its name."""
    folder = tmp_path_factory.mktemp("connected")
    fabric = start_fabric(
        folder / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}"),
        EDIF_PUSH_BYTES="100000",
        EDIF_RESULT_LIMIT_BYTES=str(2 * SIZES.cut_download_bytes),
        EDIF_MEMORY_LIMIT_BYTES=str(8 * SIZES.cut_download_bytes + 2**30),
        EDIF_MIN_FREE_BYTES="0",
        EDIF_SEND_FILES="always",  # as to readers elsewhere
    )
    try:
        fabric.wait_metadata(GPT2_ID)
        keys = [_admit(fabric, name) for name in ("ada", "eve")]
        plan = {
            "url": fabric.url,
            "data": str(fabric.data),
            "key": keys[0],
            "other_key": keys[1],
            "model": GPT2_ID,
            "cut_download_bytes": SIZES.cut_download_bytes,
            "out": str(folder / "outcomes.json"),
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        fabric.wait_running(GPT2_ID)
        _run(folder, fabric.client_environment(folder, keys[0]))
    finally:
        assert fabric.stop() == 0
    return dict(json.loads((folder / "outcomes.json").read_text()))


def _admit(fabric: Fabric, name: str) -> str:
    fabric.edif("users", "add", name)
    return str(fabric.edif("keys", "create", "--user", name)["key"])


def _run(folder: Path, environment: dict[str, str]) -> None:
    log = folder / "client.log"
    with log.open("wb") as output:
        client = subprocess.Popen(
            [sys.executable, "-m", "tests.fabric.connected", folder / "plan.json"],
            env=environment,
            cwd=PROGRAM.parents[2],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            assert client.wait(CLIENT_TIMEOUT_S) == 0, log.read_text()[-3000:]
        finally:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_connected(scenario: str, outcomes: dict[str, str]) -> None:
    assert outcomes[scenario] == ""
