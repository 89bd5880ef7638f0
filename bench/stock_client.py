"""One stock nnsight client that sends small traces, one after another, and prints the time of each as JSON.

Usage: ``python stock_client.py MODEL_FOLDER_OR_LOCAL MODEL_KEY COUNT GATE``. It waits until the file GATE
exists, so that several start together. With MODEL_KEY ``local`` the same trace runs in this process.
"""

import json
import sys
import time
from pathlib import Path

import torch
from nnsight import CONFIG, TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend

torch.set_num_threads(1)
CONFIG.APP.REMOTE_LOGGING = False
folder, key, count, gate = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
local = key == "local"
model = TransformersModel(folder, task="text-generation", dispatch=local, dtype=torch.float32)
PROMPT = "When Mary and John went to the store , John gave a drink to"


def one() -> dict[str, float]:
    began = time.perf_counter()
    backend = None if local else RemoteBackend(key, env={"attn_implementation": "sdpa"})
    with model.trace(PROMPT, backend=backend) as tracer:
        h = model.transformer.h[1].output[0].save()  # noqa: F841
        logits = model.lm_head.output[0, -1].save()  # noqa: F841
    took = time.perf_counter() - began
    meta = {} if local else (tracer.backend.meta or {})
    return {"s": took, "total_s": meta.get("total_s", 0.0), "run_s": meta.get("run_s", 0.0)}


for _ in range(3):
    one()
Path(f"{gate}.ready.{sys.argv[5]}").write_text("")
while not gate.exists():
    time.sleep(0.005)
start = time.time()
times = [one() for _ in range(count)]
print(json.dumps({"start": start, "end": time.time(), "times": times}))
