"""A script without functions of its own for the traces: ``python script.py MODEL remote|local``."""

import sys

import torch
from nnsight import TransformersModel

name, mode = sys.argv[1:]
remote = mode == "remote"
weights = {} if remote else {"dtype": torch.float32, "dispatch": True}
model = TransformersModel(name, task="text-generation", rename={"lm_head": "unembedding"}, **weights)
factor = -3


def turned(tensor):
    return tensor * factor


with model.trace("a dog ran under the mat", remote=remote):
    model.unembedding.input = turned(model.unembedding.input)
    logits = model.unembedding.output.save()

lasts = []
for prompt in ("a dog ran", "the cat sat"):
    with model.trace(prompt, remote=remote):
        last = model.unembedding.output[:, -1].save()
    lasts.append(last)

with model.trace("a dog ran under the mat", remote=remote):
    plain_logits = model.unembedding.output.save()
