"""One nnsight client that sends small traces, one after another, and prints the time of each as JSON.

Usage: ``python stock_client.py MODEL_FOLDER MODEL_KEY [check] [connected]``. For each line of its input, a number, it runs so
many traces and answers with one line. With MODEL_KEY ``local`` the same trace runs in this process. With ``check`` each is
compared with a trace that ran in this process, bit for bit. With ``connected`` it is not the stock client, but ``edif.connect``.
"""

import json
import sys
import time

import torch
from nnsight import CONFIG, TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend

import edif
from edif.client.backend import ConnectedBackend

torch.set_num_threads(1)
CONFIG.APP.REMOTE_LOGGING = False
folder, key, *words = sys.argv[1:]
local, check = key == "local", "check" in words
connection = edif.connect() if "connected" in words else None
ENV = {"attn_implementation": "sdpa"}
model = TransformersModel(folder, task="text-generation", dispatch=local or check, dtype=torch.float32)
PROMPT = "When Mary and John went to the store , John gave a drink to"


def backend_of(local: bool) -> RemoteBackend | None:
    if local:
        return None
    if connection is None:
        return RemoteBackend(key, env=ENV)
    return ConnectedBackend(connection, key, host=connection.url, env=ENV)


def trace(local: bool) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, float]]:
    with model.trace(PROMPT, backend=backend_of(local)) as tracer:
        h = model.transformer.h[1].output[0].save()
        logits = model.lm_head.output[0, -1].save()
    return (h, logits), {} if local else (tracer.backend.meta or {})


expected, _ = trace(local=True) if check else ((), {})


def one() -> dict[str, float]:
    began = time.perf_counter()
    values, meta = trace(local)
    took = time.perf_counter() - began
    right = all(map(torch.equal, values, expected)) if check else True
    return {"s": took, "right": right, "total_s": meta.get("total_s", 0.0), "run_s": meta.get("run_s", 0.0)}


for line in sys.stdin:
    start, cpu = time.time(), time.process_time()
    times = [one() for _ in range(int(line))]
    cpu = time.process_time() - cpu
    print(json.dumps({"start": start, "end": time.time(), "cpu_s": cpu, "times": times}), flush=True)
