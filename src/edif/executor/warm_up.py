"""One small trace of our own, run once in the zygote: children inherit what the libraries set up on first use.

It takes the whole way of a job - serialise, deserialise, forward pass, save - because each library on that
way imports and compiles things when it is first used. No user code is involved, and one thread computes.
"""

import io
from typing import Any

import torch
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from edif.executor.job import LoadedModel, run_job
from edif.executor.reset import forget_nnsight


class _Keep(Backend):  # type: ignore[misc]  # nnsight has no types
    """Keeps the request that ``remote=True`` would send."""

    def __init__(self) -> None:
        self.payload = b""

    def __call__(self, tracer: Any = None) -> None:
        self.payload = RequestModel.serialize(tracer, compress=False)


def warm_up(model: Any) -> bytes:
    """Run one tiny trace on the freshly loaded model and forget it.

    Returns its payload, with which :func:`rehearse` does the same again in a fork; empty if there is none.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return b""
    token = tokenizer.eos_token_id or 0
    kept = _Keep()
    with model.trace(torch.tensor([[token, token]]), backend=kept) as tracer:
        output = tracer.result.save()  # noqa: F841 - nnsight sends it back by its name
    loaded = LoadedModel(model, adapters={})
    try:
        rehearse(loaded, kept.payload)
    finally:
        loaded.release()
    return kept.payload


def rehearse(loaded: LoadedModel, payload: bytes) -> None:
    """Go the whole way of a job once, so that the pages that it touches are this process's own already."""
    if not payload:
        return
    try:
        saved = run_job(loaded, payload, loaded.plain_env)
        torch.save(saved, io.BytesIO())
    finally:
        forget_nnsight()
