"""A client that fetches the same twelve layers in several ways, and counts seconds and what its loopback carried.

Usage: ``python slow_link_client.py MODEL_FOLDER MODEL_KEY MIB ROUNDS``; it prints JSON: by kind of values, one object for each round.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnsight import CONFIG, TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend

import edif
from edif.client.backend import ConnectedBackend

torch.set_num_threads(1)
CONFIG.APP.REMOTE_LOGGING = False
folder, key, mib, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ENV = {"attn_implementation": "sdpa"}
LAYERS = 12
model = TransformersModel(folder, task="text-generation", dispatch=False, dtype=torch.float32)


def carried() -> int:
    """By the loopback of this namespace; ``/sys`` would show another one's."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def made(backend: RemoteBackend, kind: str, keep: bool) -> tuple[Any, float]:
    """Twelve layers of values, or a handle of them, and when the user's code was done (Unix seconds)."""
    with model.trace("hello", backend=backend):
        torch.manual_seed(mib)
        noise = torch.randn(LAYERS, (mib << 20) // LAYERS // (2 if kind == "bf16" else 4))
        noise = noise.to(torch.bfloat16) if kind == "bf16" else noise
        layers = edif.keep(noise) if keep else noise.save()
        done = time.time().save()  # no tensor: that would be rounded too
    return layers, done


def measured(fetch: Callable[[], float]) -> dict[str, float]:
    """``fetch`` answers when its clock began."""
    before = carried()
    began = fetch()
    return {"seconds": time.time() - began, "bytes": carried() - before}


def stock(kind: str, *, compress: bool) -> dict[str, float]:
    CONFIG.API.COMPRESS = compress
    return measured(lambda: made(RemoteBackend(key, env=ENV), kind, False)[1])


def connected(connection: edif.Connection, kind: str) -> dict[str, float]:
    CONFIG.API.COMPRESS = True
    backend = ConnectedBackend(connection, key, host=connection.url, env=ENV)
    return measured(lambda: made(backend, kind, False)[1])


def sliced(connection: edif.Connection, kind: str) -> dict[str, float]:
    handle, _ = made(ConnectedBackend(connection, key, host=connection.url, env=ENV), kind, True)

    def fetch() -> float:
        began = time.time()
        assert len(handle[7]) == handle.shape[1]
        return began

    return measured(fetch)


found: dict[str, list[dict[str, Any]]] = {}
for kind in ("bf16", "fp32"):
    with edif.connect() as plain:
        connected(plain, kind)  # from now on it knows how fast the link is
        for _ in range(rounds):
            now = {"stock": stock(kind, compress=False), "stock-compressed": stock(kind, compress=True)}
            now |= {"connected": connected(plain, kind), "slice": sliced(plain, kind)}
            found.setdefault(kind, []).append(now)
    with edif.connect(rounding="bfloat16") as rounding:
        connected(rounding, kind)
        for now in found[kind]:
            now["rounded"] = connected(rounding, kind)
print(json.dumps(found))
