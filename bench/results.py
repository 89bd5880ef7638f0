"""Large results: from "user code done" to "tensor in the client", against a bare server and the way in one piece.

It needs ``nginx`` (apt: nginx-light) as the bare server. The values repeat a megabyte of noise, which no compression
with these windows sees.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import psutil
from tests.support.fabric import clean_environment

from bench.subjects import DEMO, DEMO_KEY, demo_fabric
from bench.tables import table

_CLIENT = Path(__file__).with_name("result_client.py")
_MIB = 512
_ROUNDS = 3
_KINDS = [("fp32", "no"), ("bf16", "no"), ("fp32", "yes"), ("bf16", "yes"), ("relu", "yes")]


def measure(work: Path) -> str:
    rows = []
    with demo_fabric(work, EDIF_ISOLATION="sealed", EDIF_MEMORY_LIMIT_BYTES="4GiB") as fabric:
        gateway = psutil.Process(fabric.pid("gateway"))
        with (
            _nginx(work / "nginx") as (bare_url, files),
            _client(fabric.url, bare_url, files, work) as client,
        ):
            for kind, compress in _KINDS:
                found = [_ask(client, f"{kind} {compress} {_MIB}") for _ in range(_ROUNDS)]
                rows.append(_row(kind, compress, found))
        most_mib = gateway.memory_full_info().rss / 2**20
    title = (
        f"{_MIB} MiB from the end of the user's code to the client's tensor, seconds (median of {_ROUNDS})"
    )
    heads = (
        "values",
        "compressed",
        "MiB sent",
        "server's part",
        "whole",
        "by edif.connect",
        "bare server, same bytes",
        "bare / whole",
        "in one piece: server's part",
        "whole",
        "in one piece / ours: server's part",
        "whole",
        "by edif.connect",
        "client's reading alone",
    )
    return f"{table(title, heads, rows)}\nMemory of the gateway afterwards: {most_mib:.0f} MiB.\n"


def _row(kind: str, compress: str, found: list[dict]) -> tuple[str, ...]:
    def mid(way: str, what: str) -> float:
        return median(each[way][what] for each in found)

    def ratio(way: str, what: str) -> str:
        return f"{median(each[way][what] / each['fabric'][what] for each in found):.2f}x"

    return (
        kind,
        compress,
        f"{median(each['bytes'] for each in found) / 2**20:.0f}",
        f"{mid('fabric', 'ready'):.2f}",
        f"{mid('fabric', 'whole'):.2f}",
        f"{mid('connected', 'whole'):.2f}",
        f"{mid('bare', 'whole'):.2f}",
        ratio("bare", "whole"),
        f"{mid('pieces', 'ready'):.2f}",
        f"{mid('pieces', 'whole'):.2f}",
        ratio("pieces", "ready"),
        ratio("pieces", "whole"),
        f"{median(each['pieces']['whole'] / each['connected']['whole'] for each in found):.2f}x",
        f"{median(each['read'] for each in found):.2f}",
    )


@contextmanager
def _client(url: str, bare_url: str, files: Path, work: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, str(_CLIENT), str(DEMO), DEMO_KEY, bare_url, str(files)],
        env=clean_environment(NDIF_HOST=url, HF_HOME=str(work / "hf"), HF_HUB_OFFLINE="1"),
        cwd=work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _ask(process, "fp32 yes 16")
        yield process
    finally:
        process.communicate()


def _ask(process: "subprocess.Popen[str]", line: str) -> dict:
    print(line, file=process.stdin, flush=True)
    assert process.stdout is not None
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("the client ended early")
    return json.loads(answer)


@contextmanager
def _nginx(folder: Path) -> Iterator[tuple[str, Path]]:
    """A bare server that serves and takes the files of a folder."""
    if shutil.which("nginx") is None:
        raise SystemExit("This bench needs nginx: apt-get install nginx-light")
    files = folder / "files"
    files.mkdir(parents=True)
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; sendfile on; client_max_body_size 0; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; root {files}; location / {{ dav_methods PUT; }} }} }}\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)])
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.05)
        yield url, files
    finally:
        process.terminate()
        process.wait()
