"""A stock nnsight client that fetches large results, in turn with a bare server and with the old way, and prints times as JSON.

Usage: ``python result_client.py MODEL_FOLDER MODEL_KEY BARE_URL BARE_FOLDER``. Each line of its input is ``KIND COMPRESS MIB``;
it answers with one line. ``KIND`` names what is saved. Four ways to the same tensor, timed from the moment at which the
user's code is done:

- ``fabric``: a remote trace;
- ``connected``: one on a connection of ``edif.connect``;
- ``bare``: the very bytes of that result, fetched by the same code from a bare server;
- ``pieces``: written, compressed with zstd level 3 by one thread, sent to the bare server in one piece, and fetched.
"""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch
import zstandard
from nnsight import CONFIG, TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel, Status

import edif
from edif.client.backend import ConnectedBackend

torch.set_num_threads(1)
CONFIG.APP.REMOTE_LOGGING = False
folder, key, bare_url, bare_folder = sys.argv[1:]
ENV = {"attn_implementation": "sdpa"}
connection = edif.connect()
model = TransformersModel(folder, task="text-generation", dispatch=False, dtype=torch.float32)


class Watched(RemoteBackend):
    """Notes when the result was there to be fetched, and the bytes that came."""

    ready_at = 0.0
    content = b""

    def note(self, response: ResponseModel) -> bool:
        if response.status == Status.COMPLETED:
            self.ready_at = time.time()
        return super().note(response)

    def finalize(self, content: bytes) -> Any:
        self.content = content
        return super().finalize(content)


def trace(backend: RemoteBackend, kind: str, mib: int) -> tuple[float, float]:
    """When the user's code was done, and when its tensor was here. Unix seconds."""
    with model.trace("hello", backend=backend):
        torch.manual_seed(mib)
        noise = torch.randn(1 << 20)
        noise = noise.relu() if kind == "relu" else noise
        noise = noise.to(torch.bfloat16 if kind == "bf16" else torch.float32)
        big = noise.repeat((mib << 20) // (noise.numel() * noise.element_size())).save()
        done = torch.tensor(time.time(), dtype=torch.float64).save()
    ended = time.time()
    assert big.numel() * big.element_size() == mib << 20
    return float(done), ended


def fabric(kind: str, mib: int) -> tuple[Watched, dict[str, float]]:
    backend = Watched(key, env=ENV)
    done, ended = trace(backend, kind, mib)
    return backend, {"ready": backend.ready_at - done, "whole": ended - done}


def connected(kind: str, mib: int) -> dict[str, float]:
    done, ended = trace(ConnectedBackend(connection, key, host=connection.url, env=ENV), kind, mib)
    return {"whole": ended - done}


def bare(backend: Watched) -> dict[str, float]:
    Path(bare_folder, "result").write_bytes(backend.content)
    began = time.time()
    backend.download_result(f"{bare_url}/result")
    return {"whole": time.time() - began}


def _put(content: bytes) -> None:
    # httpx copies the whole rest of a body for each send, if it is given as one object.
    parts = (content[start : start + (1 << 20)] for start in range(0, len(content), 1 << 20))
    headers = {"content-length": str(len(content))}
    httpx.put(f"{bare_url}/sent", content=parts, headers=headers, timeout=600).raise_for_status()


def pieces(backend: Watched, value: Any) -> dict[str, float]:
    began = time.time()
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = buffer.getvalue()
    if backend.compress:
        content = zstandard.ZstdCompressor(level=3).compress(content)
    _put(content)
    ready = time.time()
    backend.download_result(f"{bare_url}/sent")
    return {"ready": ready - began, "whole": time.time() - began}


for line in sys.stdin:
    kind, compress, mib = line.split()
    CONFIG.API.COMPRESS = compress == "yes"
    backend, ours = fabric(kind, int(mib))
    over_connection = connected(kind, int(mib))
    theirs = bare(backend)
    began = time.time()
    value = backend.finalize(backend.content)
    read_s = time.time() - began
    size = len(backend.content)
    old = pieces(backend, value)
    print(
        json.dumps(
            {
                "fabric": ours,
                "connected": over_connection,
                "bare": theirs,
                "pieces": old,
                "read": read_s,
                "bytes": size,
            }
        ),
        flush=True,
    )
    del value, backend
