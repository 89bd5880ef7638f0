"""What is measured: a fabric, a bare server, stock clients, a bare model, all as processes of their own."""

import json
import os
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
from edif.worker.environment import environment_from

DEMO = Path(edif.__file__).parent / "models" / "demo"
DEMO_KEY = format_model_key("edif/demo", None, "text-generation", False)
_MAKE_GPT2 = """
import json, sys, torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **json.loads(sys.argv[3]))).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""
_CLIENT = Path(__file__).with_name("stock_client.py")


def make_gpt2(folder: Path, **config: int) -> Path:
    """Write a GPT-2 of random weights and the demo model's tokenizer; without ``config`` the size of GPT-2 small."""
    subprocess.run([sys.executable, "-c", _MAKE_GPT2, str(DEMO), str(folder), json.dumps(config)], check=True)
    return folder


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
    """Stock clients that import once, and then run together as often as they are told to.

    Args:
        url: the server that they call.
        count: how many processes.
        work: a folder for their caches.
        local: run the same trace in the client's own process instead.
        key: the API key that they send.
        check: compare every value with that of a local run.
        connected: by ``edif.connect``, and not as the stock client does.
    """

    def __init__(
        self,
        url: str,
        count: int,
        work: Path,
        *,
        local: bool = False,
        key: str = "",
        check: bool = False,
        connected: bool = False,
    ) -> None:
        variables = clean_environment(NDIF_HOST=url, HF_HOME=str(work / "hf"), HF_HUB_OFFLINE="1")
        if key:
            variables["NDIF_API_KEY"] = key
        said = [word for word, wanted in (("check", check), ("connected", connected)) if wanted]
        words = ("local" if local else DEMO_KEY, *said)
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(_CLIENT), str(DEMO), *words],
                env=variables,
                cwd=work,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]

    def __enter__(self) -> "StockClients":
        self.go(3)  # imports, and what the libraries set up on first use
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.communicate()  # they leave at the end of their input

    def go(self, traces: int) -> list[dict[str, Any]]:
        """Have each run ``traces`` small traces, all at once, and return what each measured."""
        for process in self._processes:
            print(traces, file=process.stdin, flush=True)
        return [json.loads(_line(process)) for process in self._processes]


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process that is measured ended early")
    return line


def jobs_per_second(reports: list[dict[str, Any]]) -> float:
    jobs = sum(len(report["times"]) for report in reports)
    return jobs / (max(report["end"] for report in reports) - min(report["start"] for report in reports))


class PurePasses:
    """A model's forward pass in plain PyTorch, in a process of its own that has what a replica's has: environment and threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.pure_passes", str(folder), str(threads)],
            env=environment_from(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "PurePasses":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it leaves at the end of its input

    def seconds(self, rows: int, tokens: int) -> float:
        """The fastest of some passes."""
        print(rows, tokens, file=self._process.stdin, flush=True)
        return float(_line(self._process))
