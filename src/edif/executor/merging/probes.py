"""Runs of a freshly loaded model on a few tokens, with all that it comes by, and how such runs compare."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from edif.executor.merging.forms import Parts, take_apart
from edif.executor.merging.kv_caches import Snapshot
from edif.executor.merging.layout import handled_by
from edif.executor.merging.request import Request

NEW_TOKENS = 2
_TOKEN = 7
_TOKENS = 20
"""What ids begin at, far from the special tokens that most tokenizers put first; and how many there are."""
LONG = 21
"""Tokens of a prompt by which differences are measured. Of fewer than 16, kernels compute the same in every batch, and with padding too."""


@dataclass(slots=True)
class Recorded:
    """Every value of one run, by location and in the order of visits; and how often the model had been called by then."""

    values: dict[str, list[Parts]] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=dict)


def probe(generates: bool, rows: int, tokens: int, first_row: int = 0) -> Request:
    """Rows of a few tokens, of which no two are alike."""
    first = torch.arange(first_row, first_row + rows)[:, None] * tokens
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 1}
    options = tuple(sorted(length.items())) if generates else ()
    return Request(generates, _TOKEN + (first + torch.arange(tokens)) % _TOKENS, options=options)


def takes_long_ones(model: Any) -> bool:
    """Whether a prompt of so many tokens can be run, and continued."""
    config = model._module.config.get_text_config()  # noqa: SLF001 - nnsight's own name
    return (getattr(config, "max_position_embeddings", None) or LONG + NEW_TOKENS) >= LONG + NEW_TOKENS


def record(model: Any, request: Request) -> Recorded:
    """Run the model on this, and note all that it comes by."""
    recorded = Recorded()
    opened: dict[str, list[tuple[Parts, Snapshot]]] = {}
    calls = 0

    def handle(name: str, value: Any) -> Any:
        nonlocal calls
        calls += name == f"{model.path}.input"
        if not name.endswith(".skip"):
            recorded.values.setdefault(name, []).append(_taken_apart(value))
            with suppress(Exception):
                if (parts := take_apart(value, caches=True)).caches:
                    opened.setdefault(name, []).append((_as_it_is(parts), Snapshot(parts.caches)))
            recorded.calls.setdefault(name, []).append(calls)
        return value

    with handled_by(model.interleaver, handle):
        if request.generates:
            result = model.generate(**request.inputs(), **dict(request.options))
        else:
            result = model._call(**request.inputs())  # noqa: SLF001 - what nnsight's own traces call
        handle("result", result)
    for name, visits in opened.items():
        if len(visits) == len(recorded.values[name]) and all(then.holds for _, then in visits):
            recorded.values[name] = [parts for parts, _ in visits]
    return recorded


def _taken_apart(value: Any) -> Parts:
    try:
        return _as_it_is(take_apart(value))
    except Exception:  # noqa: BLE001 - an unusual object can raise anything
        return Parts(form=("strange", object()))  # unlike any other


def _as_it_is(parts: Parts) -> Parts:
    """With copies of its tensors, to which the model may write."""
    leaves = [each.detach().clone().requires_grad_(each.requires_grad) for each in parts.leaves]
    return replace(parts, leaves=leaves, opaque=[])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, in units in the last place of the dtype at the largest finite value.

    Infinite where one is not finite and the other is something else.
    """
    one, other = (
        torch.view_as_real(each) if each.is_complex() else each for each in (one.detach(), other.detach())
    )
    differ = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(differ.any()):
        return 0.0
    ones, others = one[differ], other[differ]
    if not one.is_floating_point() or not bool((ones.isfinite() & others.isfinite()).all()):
        return float("inf")
    largest = max(float(other[other.isfinite()].abs().max()), torch.finfo(one.dtype).tiny)
    return float((ones - others).abs().max()) / largest / torch.finfo(one.dtype).eps
