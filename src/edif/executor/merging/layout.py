"""Where in each of a model's values the rows of a prompt lie, found out by running it.

A value of a batch is a tensor with a dimension for its rows, or with rows and tokens in one, or the same for all rows. Which
of them it is cannot be told from one pass: with sixteen rows of sixteen tokens everything looks alike, and a wrong guess shows one
user the activations of another. So the freshly loaded model runs two small batches of different size, and what grew
with the rows, and only that, is cut by rows. What cannot be told apart is never served in a shared pass.

It runs them in every way in which traces call it: position embeddings, say, are the same for all rows only as long as no
row is padded.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import torch

from edif.executor.keeping import DTYPES
from edif.executor.merging.forms import Form, Parts, opaque_kinds, take_apart
from edif.executor.merging.kv_caches import Snapshot
from edif.executor.merging.request import Way

_FIRST, _SECOND = (2, 3), (3, 4)
"""Rows and tokens of the two batches. No size, nor rows times tokens, means the same in both."""
_NEW_TOKENS = 2
_PLAIN_WAYS = tuple(Way(generates, masked=False, positioned=False) for generates in (False, True))
_PADDED_WAYS = tuple(Way(generates, masked=True, positioned=True) for generates in (False, True))
"""As nnsight calls a model with prompts of different lengths."""
_TOKEN = 7
"""What ids begin at: far from the special tokens that most tokenizers put first."""


AFTER_GENERATION = ("model.generator.input", "model.generator.output", "result")
"""What a generation comes by when it is over, in this order: all that it has generated."""


class Kind(Enum):
    """
    Attributes:
        ROWS: one dimension counts the rows.
        FLAT: one dimension counts rows times tokens, row by row.
        WHOLE: the same for all rows.
        UNKNOWN: cannot be told apart; such a value is never served.
    """

    ROWS = auto()
    FLAT = auto()
    WHOLE = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class LeafLayout:
    """Of one tensor of a form. ``dim`` is the dimension of the rows, ``tracked`` whether gradients flow through it in a job's own pass."""

    kind: Kind
    dim: int
    tracked: bool

    def rows(self, tensor: torch.Tensor, start: int, size: int, total: int) -> torch.Tensor:
        """The part that belongs to ``size`` rows from ``start`` on, of ``total``; a view.

        Raises:
            Unservable: the tensor has not the size that a batch of so many rows gives it.
        """
        if self.kind is Kind.WHOLE:
            return tensor
        if self.kind is Kind.UNKNOWN or tensor.dim() <= self.dim:
            raise Unservable
        length = tensor.shape[self.dim]
        each = length // total if self.kind is Kind.FLAT else 1
        if length != each * total or each == 0:
            raise Unservable
        return tensor.narrow(self.dim, start * each, size * each)


class Unservable(Exception):
    """A value that is not as it was when the model was loaded."""


@dataclass(slots=True)
class FormLayout:
    way: Way
    form: Form
    leaves: list[LeafLayout]


@dataclass(slots=True)
class Location:
    """What is true in one way of calling the model need not be so in another; its forms are numbered over all.

    Attributes:
        final: the ways in which key-value caches are met here and do not change any more: there they are taken apart.
    """

    name: str
    forms: list[FormLayout] = field(default_factory=list)
    final: set[Way] = field(default_factory=set)

    @property
    def in_generation(self) -> bool:
        """Whether a generation comes by it in its course, and not when it is over."""
        return self.name not in AFTER_GENERATION

    def known(self, form: Form, way: Way) -> int | None:
        """The number of this form, if it was seen when the model was loaded."""
        for number, each in enumerate(self.forms):
            if each.way == way and each.form == form:
                return number
        return None


@contextmanager
def handled_by(interleaver: Any, handle: Any) -> Iterator[None]:
    """Within the block the model's modules hand their values to ``handle``, as they else do to nnsight's own."""
    interleaver.handle = handle
    interleaver.interleaving = interleaver.busy = True
    try:
        yield
    finally:
        del interleaver.handle
        interleaver.interleaving = interleaver.busy = False


class Layout:
    """Every location of a model, numbered, with the forms and rows of its values.

    Made by :meth:`learn` in the process that forks, so all of its children have the same.

    Attributes:
        locations: in the order of their numbers.
        ways: in which the model was called; in others no pass is shared.
        difference: the largest of any value between a batch and a pass of one row, see :class:`~edif.wire.link.Merging`.
    """

    def __init__(self) -> None:
        self.locations: list[Location] = []
        self.ways: set[Way] = set()
        self.difference = 0.0
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int | None:
        return self._numbers.get(name)

    def opaque(self, number: int, way: Way) -> bool:
        """Whether values of this location have parts that are not served."""
        forms = self.locations[number].forms
        return any(any(opaque_kinds(each.form)) for each in forms if each.way == way)

    @classmethod
    def learn(cls, model: Any) -> "Layout":
        """Run the model on a few tokens. What it raises is raised: then it cannot be called with token ids alone.

        Args:
            model: the nnsight wrapper of the loaded model.
        """
        layout = cls()
        for way in _PLAIN_WAYS:
            layout._learn(model, way)
        for way in _PADDED_WAYS:
            with suppress(Exception):  # a model need not take positions
                layout._learn(model, way)
        return layout

    def _learn(self, model: Any, way: Way) -> None:
        first, second = (_record(model, *sizes, way) for sizes in (_FIRST, _SECOND))
        self._note(first, second, way)
        self._measure(second, _record(model, 1, _SECOND[1], way, first_row=1), way)
        self.ways.add(way)

    def _note(self, first: "_Recorded", second: "_Recorded", way: Way) -> None:
        for (name, ones), (other, twos) in zip(first.items(), second.items(), strict=True):
            if name != other or len(ones) != len(twos):
                raise Unservable
            for one, two in zip(ones, twos, strict=True):
                self._note_value(name, one, two, way)

    def _note_value(self, name: str, one: Parts, two: Parts, way: Way) -> None:
        if one.form != two.form:
            return  # depends on the sizes: never served
        number = self._numbers.setdefault(name, len(self.locations))
        if number == len(self.locations):
            self.locations.append(Location(name))
        location = self.locations[number]
        if one.caches:
            location.final.add(way)
        leaves = [_compare(*pair) for pair in zip(one.leaves, two.leaves, strict=True)]
        known = location.known(one.form, way)
        if known is None:
            location.forms.append(FormLayout(way, one.form, leaves))
            return
        for earlier, now in zip(location.forms[known].leaves, leaves, strict=True):
            earlier.kind = _both(earlier, now)
            earlier.tracked = earlier.tracked or now.tracked

    def _measure(self, batch: "_Recorded", one: "_Recorded", way: Way) -> None:
        for name, values in batch.items():
            location = self.locations[self._numbers[name]]
            for shared, own in zip(values, one.get(name, ()), strict=True):
                known = location.known(shared.form, way)
                if known is not None and own.form == shared.form:
                    self._measure_value(location.forms[known], own, shared)

    def _measure_value(self, form: FormLayout, own: Parts, shared: Parts) -> None:
        for leaf, alone, batched in zip(form.leaves, own.leaves, shared.leaves, strict=True):
            if leaf.kind is Kind.UNKNOWN:
                continue
            rows = leaf.rows(batched, 1, 1, _SECOND[0])
            if rows.shape != alone.shape:
                leaf.kind = Kind.UNKNOWN
            elif leaf.kind is Kind.WHOLE and not torch.equal(rows, alone):
                leaf.kind = Kind.UNKNOWN  # made of all rows
            else:
                self.difference = max(self.difference, difference(rows, alone))


_Recorded = dict[str, list[Parts]]


def _record(model: Any, rows: int, tokens: int, way: Way, first_row: int = 0) -> _Recorded:
    """Every value of one run, by location and in the order of visits."""
    recorded: _Recorded = {}
    opened: dict[str, list[tuple[Parts, Snapshot]]] = {}

    def handle(name: str, value: Any) -> Any:
        if not name.endswith(".skip"):
            recorded.setdefault(name, []).append(_as_it_is(take_apart(value)))
            if (parts := take_apart(value, caches=True)).caches:
                opened.setdefault(name, []).append((_as_it_is(parts), Snapshot(parts.caches)))
        return value

    first = torch.arange(first_row, first_row + rows)[:, None] * tokens
    ids = _TOKEN + first + torch.arange(tokens)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if way.masked:
        inputs["attention_mask"][:, 0] = 0
    if way.positioned:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with handled_by(model.interleaver, handle):
        if way.generates:
            length = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS}
            result = model.generate(**inputs, **length, do_sample=False, num_beams=1)
        else:
            result = model._call(**inputs)  # noqa: SLF001 - what nnsight's own traces call
        handle("result", result)
    for name, visits in opened.items():
        if len(visits) == len(recorded[name]) and all(then.holds for _, then in visits):
            recorded[name] = [parts for parts, _ in visits]
    return recorded


def _as_it_is(parts: Parts) -> Parts:
    """With copies of its tensors, to which the model may write."""
    leaves = [each.detach().clone().requires_grad_(each.requires_grad) for each in parts.leaves]
    return replace(parts, leaves=leaves, opaque=[])


def _compare(one: torch.Tensor, two: torch.Tensor) -> LeafLayout:
    tracked = one.requires_grad
    if one.dim() != two.dim() or one.layout is not torch.strided or one.dtype not in DTYPES.values():
        return LeafLayout(Kind.UNKNOWN, 0, tracked)
    sizes = list(zip(one.shape, two.shape, strict=True))
    counts = (_FIRST[0], _SECOND[0])
    both = (_FIRST[0] * _FIRST[1], _SECOND[0] * _SECOND[1])
    # Of generated values: tokens grow by those that are new.
    lengths = {(_FIRST[1] + new, _SECOND[1] + new) for new in range(_NEW_TOKENS + 1)}
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


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, in units in the last place of the dtype at the largest finite value.

    Infinite where one is not finite and the other is something else.
    """
    one, other = one.detach(), other.detach()
    differ = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(differ.any()):
        return 0.0
    ones, others = one[differ], other[differ]
    if not one.is_floating_point() or not bool((ones.isfinite() & others.isfinite()).all()):
        return float("inf")
    largest = max(float(other[other.isfinite()].abs().max()), torch.finfo(one.dtype).tiny)
    return float((ones - others).abs().max()) / largest / torch.finfo(one.dtype).eps


def learn(model: Any, tolerance: float) -> tuple[Layout | None, str]:
    """The layout of a freshly loaded model, and why none of its traces can be merged; empty if they can.

    Args:
        tolerance: as :class:`~edif.wire.link.Merging` has it.
    """
    try:
        layout = Layout.learn(model)
    except Exception as error:  # noqa: BLE001 - a model's forward pass can raise anything
        return None, f"it cannot be run on token ids alone ({type(error).__name__}: {error})"
    if layout.difference > tolerance:
        return layout, (
            f"in a batch its values differ by {layout.difference:.3g} units in the last place, "
            f"and {tolerance:g} are allowed"
        )
    return layout, ""
