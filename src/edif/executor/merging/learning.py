"""A model's layout, found out by running it.

With sixteen rows of sixteen tokens everything looks alike, and a wrong guess where the rows are shows one
user the activations of another. So the freshly loaded model runs two small batches of different size, and what grew
with the rows, and only that, is cut by rows. What cannot be told apart is never served in a shared pass.

It runs them in every way in which traces call it: position embeddings, say, are the same for all rows only as long as no
row is padded.
"""

from contextlib import suppress
from typing import Any

import torch

from edif.core.limits import Padding
from edif.executor.keeping import DTYPES
from edif.executor.merging.bits import same_bits
from edif.executor.merging.forms import Parts, Scalar
from edif.executor.merging.layout import FormLayout, Layout
from edif.executor.merging.leaves import Kind, LeafLayout, Unservable
from edif.executor.merging.padding import learn_padding
from edif.executor.merging.probes import LONG, NEW_TOKENS, difference, probe, record, takes_long_ones
from edif.executor.merging.request import Request, Way

_FIRST, _SECOND = (2, 3), (3, 4)
"""Rows and tokens of the two batches. No size, nor rows times tokens, means the same in both."""
_PLAIN_WAYS = tuple(Way(generates, masked=False, positioned=False) for generates in (False, True))
_PADDED_WAYS = tuple(Way(generates, masked=True, positioned=True) for generates in (False, True))
"""As nnsight calls a model with prompts of different lengths."""


def layout_of(model: Any) -> Layout:
    """Run the model on a few tokens. What it raises is raised: then it cannot be called with token ids alone.

    Args:
        model: the nnsight wrapper of the loaded model.
    """
    layout = Layout()
    for way in _PLAIN_WAYS:
        _learn(layout, model, way)
    for way in _PADDED_WAYS:
        with suppress(Exception):  # a model need not take positions
            _learn(layout, model, way)
    if takes_long_ones(model):
        batch, alone = (
            record(model, probe(generates=False, rows=rows, tokens=LONG, first_row=first)).values
            for rows, first in ((_SECOND[0], 0), (1, 1))
        )
        _measure(layout, batch, alone, _PLAIN_WAYS[0])
    return layout


def _in_way(request: Request, way: Way) -> Request:
    mask = torch.ones_like(request.ids)
    mask[:, 0] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Request(
        request.generates,
        request.ids,
        mask if way.masked else None,
        positions if way.positioned else None,
        request.options,
    )


def _learn(layout: Layout, model: Any, way: Way) -> None:
    first, second = (
        record(model, _in_way(probe(way.generates, *sizes), way)).values for sizes in (_FIRST, _SECOND)
    )
    for name, ones in first.items():
        try:
            for one, two in zip(ones, second.get(name, ()), strict=True):
                _note(layout, name, one, two, way)
        except Exception:  # noqa: BLE001 - how often it is visited depends on the rows; or objects that cannot even be compared
            layout.place(name).hide(way)
    alone = _in_way(probe(way.generates, 1, _SECOND[1], first_row=1), way)
    _measure(layout, second, record(model, alone).values, way)
    result = layout.place("result")
    if not result.serves(way):
        raise Unservable("what it returns cannot be compared")
    layout.ways.add(way)


def _note(layout: Layout, name: str, one: Parts, two: Parts, way: Way) -> None:
    if one.form != two.form:
        return  # depends on the sizes: never served
    leaves = [_compare(*pair) for pair in zip(one.leaves, two.leaves, strict=True)]
    location = layout.place(name)
    if one.caches:
        location.final.add(way)
    known = location.known(one.form, way)
    if known is None:
        location.forms.append(FormLayout(way, one.form, leaves))
        return
    for earlier, now in zip(location.forms[known].leaves, leaves, strict=True):
        earlier.kind = _both(earlier, now)
        earlier.tracked = earlier.tracked or now.tracked


def _measure(layout: Layout, batch: dict[str, list[Parts]], one: dict[str, list[Parts]], way: Way) -> None:
    for name, values in batch.items():
        number = layout.number(name)
        if number is None:
            continue
        location = layout.locations[number]
        try:
            for shared, own in zip(values, one.get(name, ()), strict=True):
                known = location.known(shared.form, way)
                if known is not None:
                    _measure_value(layout, location.forms[known], own, shared)
        except Exception:  # noqa: BLE001 - likewise: it is another value alone, or none that can be compared
            location.hide(way)


def _measure_value(layout: Layout, form: FormLayout, own: Parts, shared: Parts) -> None:
    """
    Raises:
        Unservable: a row alone has another value.
    """
    if own.form != shared.form or [*map(_exactly, own.scalars)] != [*map(_exactly, shared.scalars)]:
        raise Unservable
    for leaf, alone, batched in zip(form.leaves, own.leaves, shared.leaves, strict=True):
        if leaf.kind is Kind.UNKNOWN:
            continue
        rows = leaf.rows(batched, 1, 1, _SECOND[0])
        if rows.shape != alone.shape:
            leaf.kind = Kind.UNKNOWN
        elif leaf.kind is Kind.WHOLE and not same_bits(rows, alone):
            leaf.kind = Kind.UNKNOWN  # made of all rows
        else:
            layout.difference = max(layout.difference, difference(rows, alone))


def _exactly(scalar: Scalar) -> tuple[type, str]:
    return type(scalar), repr(scalar)  # NaN is not equal to itself, and True is to 1


def _compare(one: torch.Tensor, two: torch.Tensor) -> LeafLayout:
    tracked = one.requires_grad
    if one.dim() != two.dim() or one.layout is not torch.strided or one.dtype not in DTYPES.values():
        return LeafLayout(Kind.UNKNOWN, 0, tracked)
    sizes = list(zip(one.shape, two.shape, strict=True))
    counts = (_FIRST[0], _SECOND[0])
    both = (_FIRST[0] * _FIRST[1], _SECOND[0] * _SECOND[1])
    # Of generated values: tokens grow by those that are new.
    lengths = {(_FIRST[1] + new, _SECOND[1] + new) for new in range(NEW_TOKENS + 1)}
    plain = {pair for pair in sizes if pair[0] == pair[1]}
    if any(pair not in {counts, both, *lengths, *plain} for pair in sizes):
        return LeafLayout(Kind.UNKNOWN, 0, tracked)
    grown = [dim for dim, pair in enumerate(sizes) if pair in (counts, both)]
    if not grown:
        return LeafLayout(Kind.WHOLE, 0, tracked)
    if len(grown) > 1:
        return LeafLayout(Kind.UNKNOWN, 0, tracked)
    return LeafLayout(Kind.ROWS if sizes[grown[0]] == counts else Kind.FLAT, grown[0], tracked)


def _both(one: LeafLayout, other: LeafLayout) -> Kind:
    """What is true of a leaf that was seen twice. With one token a row, flat looks like rows."""
    kinds = {one.kind, other.kind}
    if len(kinds) == 1 and (one.dim == other.dim or one.kind is Kind.WHOLE):
        return one.kind
    if kinds == {Kind.ROWS, Kind.FLAT} and one.dim == other.dim:
        return Kind.FLAT
    return Kind.UNKNOWN


def learn(model: Any, tolerance: float, padding: Padding = Padding.OFF) -> tuple[Layout | None, str]:
    """The layout of a freshly loaded model, and why none of its traces can be merged; empty if they can.

    Args:
        tolerance: as :class:`~edif.wire.link.Merging` has it.
        padding: likewise.
    """
    try:
        layout = layout_of(model)
    except Exception as error:  # noqa: BLE001 - a model's forward pass can raise anything
        return None, f"it cannot be run on token ids alone ({type(error).__name__}: {error})"
    if layout.difference > tolerance:
        return layout, (
            f"in a batch its values differ by {layout.difference:.3g} units in the last place, "
            f"and {tolerance:g} are allowed"
        )
    if padding is Padding.ON or (padding is Padding.AUTO and layout.difference > 0):
        learn_padding(layout, model, tolerance)
    return layout, ""
