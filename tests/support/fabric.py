"""A real fabric on loopback, started by the real command and ended by process id."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.commands import run_forked
from tests.support.ordinary import Host

EDIF = str(Path(sys.executable).with_name("edif"))
PATIENCE_S = 180.0  # far above what anything takes; only a failure takes it


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without anything that would steer a client or a fabric."""
    unwanted = ("EDIF_", "NDIF_", "HF_", "NNSIGHT_", "PYTEST_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "EDIF_THREADS": "1", "EDIF_DRAIN_S": "1", **extra}


@dataclass
class Fabric:
    """``edif serve`` on a free port. Start it with :func:`start_fabric`.

    Attributes:
        prefix: stands before each further command, so that it runs where the fabric runs.
        authorities: the file of those who are trusted when it speaks TLS.
    """

    process: subprocess.Popen[bytes]
    data: Path
    url: str
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    authorities: Path | None = None

    def client_environment(self, tmp: Path, key: str | None = None) -> dict[str, str]:
        """What a user would export, with a Hub cache of its own."""
        variables = {"NDIF_HOST": self.url, "HF_ENDPOINT": f"{self.url}/hub", "HF_HOME": str(tmp / "hf")}
        if key is not None:
            variables |= {"NDIF_API_KEY": key, "HF_TOKEN": key}
        return clean_environment(**variables)

    def edif(self, *arguments: str, check: bool = True) -> Any:
        """Run an ``edif`` command with ``--json`` on this fabric's data folder and return what it printed."""
        words = [*arguments, "--data", str(self.data), "--json"]
        if self.prefix:
            done = subprocess.run(
                [*self.prefix, EDIF, *words],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        else:
            done = run_forked(words, self.environment)
        if check and done.returncode != 0:
            raise AssertionError(f"edif {' '.join(arguments)} failed: {done.stderr}")
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def pid(self, service: str) -> int:
        """The process id of ``gateway`` or ``agent``."""
        return int(json.loads((self.data / "run" / f"{service}.json").read_text())["pid"])

    def log(self, service: str) -> str:
        return (self.data / "run" / "logs" / f"{service}.log").read_text()

    def wait_running(self, model: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the model has a ready replica."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.model_state(model) == "RUNNING":
                return
            time.sleep(0.1)
        raise AssertionError(f"{model} did not come up: {self.log('agent')[-3000:]}")

    def model_state(self, model: str) -> str | None:
        try:
            deployments = self._get("/status").json()["deployments"].values()
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        return next((str(d["application_state"]) for d in deployments if d["repo_id"] == model), None)

    def wait_metadata(self, model: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the Hub mirror has the model's files (only on a fabric without users)."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._get(f"/hub/api/models/{model}").status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError(f"the Hub mirror does not have {model}")

    def _get(self, path: str) -> httpx.Response:
        trust = ssl.create_default_context(cafile=str(self.authorities)) if self.authorities else True
        return httpx.get(f"{self.url}{path}", verify=trust)

    def stop(self) -> int:
        """End it as Ctrl-C does, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._close()
        return code

    def kill(self) -> None:
        """Kill the supervisor alone; its services go on."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_fabric(data: Path, *arguments: str, host: Host | None = None, **environment: str) -> Fabric:
    """Start ``edif serve --port 0`` with these further arguments and ``EDIF_*`` variables; on ``host``, if given."""
    variables = clean_environment(**environment)
    prefix = host.prefix() if host else ()
    process = subprocess.Popen(
        [*prefix, EDIF, "serve", "--port", "0", "--data", str(data), *arguments],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    heard = ""
    while time.monotonic() < deadline:
        line = process.stdout.readline().decode()
        heard += line
        if line.startswith("eDIF is listening at "):
            url = line.split()[4]
            return Fabric(process, data, url, variables, host.prefix(process.pid) if host else ())
        if not line and process.poll() is not None:
            break
    process.kill()
    process.wait()
    raise AssertionError(f"the fabric did not start: {heard}")
