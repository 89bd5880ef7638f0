"""Hello eDIF: one trace, one saved activation, on a model that this process never loads.

Run it with the variables that `edif serve` prints. It uses nothing but nnsight.
"""

import time

from nnsight import TransformersModel

PROMPT = "When Mary and John went to the store , John gave a drink to"

model = TransformersModel("edif/demo", task="text-generation")

began = time.perf_counter()
with model.trace(PROMPT, remote=True) as tracer:
    hidden = model.transformer.h[1].output.save()
    logits = model.lm_head.output[0, -1].save()
whole_s = time.perf_counter() - began

print(f"\n{PROMPT} ...")
probabilities = logits.detach().softmax(-1)
for token in probabilities.topk(3).indices:
    print(f"  {model.tokenizer.decode(token):<10} {float(probabilities[token]):6.1%}")
print(f"activation after block 1: {tuple(hidden.shape)} {hidden.dtype}")

meta = tracer.backend.meta
print("where the time went:")
for name, what in (
    ("load_s", "waiting for the model to be brought up"),
    ("queue_s", "waiting in the queue"),
    ("run_s", "your code and the forward pass"),
    ("save_s", "serialising the result"),
    ("transfer_s", "moving bytes"),
):
    print(f"  {meta[name] * 1000:8.1f} ms  {what}")
print(f"  {(whole_s - meta['total_s']) * 1000:8.1f} ms  client and network")
print(f"  {whole_s * 1000:8.1f} ms  together")
