"""One small trace of our own, run once in the zygote: children inherit what the libraries set up on first use.

It takes the whole way of a job - serialise, deserialise, forward pass, save - because each library on that
way imports and compiles things when it is first used. No user code is involved, and one thread computes.
"""

import io
from dataclasses import dataclass
from typing import Any

import torch
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from edif.executor.job import LoadedModel, run_job
from edif.executor.keeping import Opened
from edif.executor.merging.traces import Company
from edif.executor.reset import forget_nnsight

_REHEARSED_BYTES = 16 * 1024 * 1024
"""A rehearsal stops after so many bytes of weights: on a large model the rest of the pass would cost as much as a
job does, and teach the process nothing new."""


class _Keep(Backend):  # type: ignore[misc]  # nnsight has no types
    """Keeps the request that ``remote=True`` would send."""

    def __init__(self) -> None:
        self.payload = b""

    def __call__(self, tracer: Any = None) -> None:
        self.payload = RequestModel.serialize(tracer, compress=False)


@dataclass(frozen=True, slots=True)
class Rehearsals:
    """Payloads for :func:`rehearse`, empty where a model is called in a way that we do not know.

    Attributes:
        whole: of one tiny trace.
        start: of the same, which stops when it has used :data:`_REHEARSED_BYTES` of weights.
        edit: of one that writes to what the first module puts out.
    """

    whole: bytes = b""
    start: bytes = b""
    edit: bytes = b""


def warm_up(model: Any) -> Rehearsals:
    """Run one tiny trace on the freshly loaded model and forget it; returns how to do the same again in a fork.

    A model that cannot be called with token ids alone is served all the same, only its first steps are slower.
    """
    try:
        return _warm_up(model)
    except Exception:  # noqa: BLE001 - a model's forward pass can raise anything
        forget_nnsight()
        return Rehearsals()


def _warm_up(model: Any) -> Rehearsals:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return Rehearsals()
    token = tokenizer.eos_token_id or 0
    ids = torch.tensor([[token, token]])
    whole = start = _record(model, ids)
    if (enough := _envoy_of_end(model, ids, _REHEARSED_BYTES)) is not None:
        start = _record_until(model, ids, enough)
    first = _envoy_of_end(model, ids, 1)
    edit = b"" if first is None else _record_edit(model, ids, first)
    loaded = LoadedModel(model, adapters={})
    try:
        for payload in {whole, start}:
            rehearse(loaded, payload)
    finally:
        loaded.release()
    return Rehearsals(whole, start, edit)


def _record(model: Any, ids: torch.Tensor) -> bytes:
    kept = _Keep()
    with model.trace(ids, backend=kept) as tracer:
        output = tracer.result.save()  # noqa: F841 - nnsight sends it back by its name
    return kept.payload


def _record_until(model: Any, ids: torch.Tensor, envoy: Any) -> bytes:
    kept = _Keep()
    with model.trace(ids, backend=kept) as tracer:
        output = envoy.output.save()  # noqa: F841 - nnsight sends it back by its name
        tracer.stop()
    return kept.payload


def _record_edit(model: Any, ids: torch.Tensor, envoy: Any) -> bytes:
    kept = _Keep()
    with model.trace(ids, backend=kept):
        output = envoy.output.save()
        output[:] = output + 0
    return kept.payload


def _envoy_of_end(model: Any, ids: torch.Tensor, size_bytes: int) -> Any:
    """The module, as traces speak of it, with whose end a forward pass has used so much of the weights; None if it uses less."""
    enough = _end_of(model._module, ids, size_bytes)  # noqa: SLF001 - nnsight's own name for the wrapped module
    if enough is None:
        return None
    # By identity: nnsight calls a module that is named like one of its own attributes otherwise.
    return next((each for each in model.modules() if each._module is enough), None)  # noqa: SLF001


def _end_of(module: torch.nn.Module, ids: torch.Tensor, size_bytes: int) -> torch.nn.Module | None:
    left, found = size_bytes, None

    def note(part: torch.nn.Module, *_: object) -> None:
        nonlocal left, found
        left -= sum(each.nbytes for each in part.parameters(recurse=False))
        if left <= 0 and found is None:
            found = part

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with torch.no_grad():
            module(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rehearse(loaded: LoadedModel, payload: bytes, company: Company | None = None) -> None:
    """Go the whole way of a job once, so that the pages that it touches are this process's own already.

    Args:
        company: with whom it shares its pass.
    """
    if not payload:
        return
    try:
        saved = run_job(loaded, payload, loaded.plain_env, Opened({}), company)
        torch.save(saved, io.BytesIO())
    finally:
        forget_nnsight()
