"""Prompts of different length in one pass: how what it computes is shown to each without the padding, found out by running the model.

The pass calls the model in another way than a job's own would, with a mask and with positions, so values have another form in
places, a mask where there was none, and positions of each row where one row stood for all. The same prompts are run alone and together,
and what a prompt would be shown is compared with what it has alone, place by place; what cannot be shown as it is alone
is not shown at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from edif.executor.merging.forms import Parts, Scalar, paths
from edif.executor.merging.layout import Layout, Location, Shown
from edif.executor.merging.leaves import Kind, Leaf, PaddedLeaf, Share, Unservable
from edif.executor.merging.probes import LONG, Recorded, difference, probe, record, takes_long_ones
from edif.executor.merging.request import Way, joined, shares

_PROMPTS = ((1, LONG), (2, 13), (1, 18))
"""Rows and tokens. The first ones have no padding; in what the others have more of a pass with it, no size of theirs can be mistaken for it."""
_LOOKS_BACK = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "min_length",
    "bad_words_ids",
    "sequence_bias",
    "guidance_scale",
    "watermarking_config",
    "prompt_lookup_num_tokens",
    "prefill_chunk_size",
)
"""Settings of a generation by which the next token depends on the ids so far, or on how many there are."""
_REACHES = (
    "sliding_window",
    "attention_chunk_size",
    "original_max_position_embeddings",
    "max_position_embeddings",
)
"""Up to so many tokens a model of this configuration does the same with a prompt, however long the others in the batch are."""


def learn_padding(layout: Layout, model: Any, tolerance: float) -> None:
    """Find out whether, and how, passes of this model can be shared by prompts of different length.

    Args:
        layout: what else is known of it.
        tolerance: as :class:`~edif.wire.link.Merging` has it.
    """
    try:
        if takes_long_ones(model):
            layout.longest = min(_reaches(model._module.config.to_dict()), default=1 << 30)  # noqa: SLF001 - nnsight's own name
            for generates in (False, True):
                own = Way(generates, masked=False, positioned=False)
                if why_not := _learn(layout, model, own, tolerance):
                    layout.why_unpadded.append(f"{'generations' if generates else 'passes'}: {why_not}")
        else:
            layout.why_unpadded.append(f"it takes no prompts of {LONG} tokens, by which that is measured")
    except Exception as error:  # noqa: BLE001 - of its configuration, of which it may make what it likes
        layout.why_unpadded.append(_said(error))


def _learn(layout: Layout, model: Any, own: Way, tolerance: float) -> str:
    """Find it out for one way of calling the model. Returns why its passes are not padded; empty if they are."""
    if own.generates and (setting := _looks_back(getattr(model._module, "generation_config", None))):  # noqa: SLF001
        return f"the next token depends on the prompt by the model's own {setting}"
    try:
        found = _Comparison(layout, model, own).run()
    except Exception as error:  # noqa: BLE001 - a model need not take padding
        return _said(error)
    layout.padded_difference = max(layout.padded_difference or 0.0, found)
    if found > tolerance:
        return f"values differ by {found:.3g} units in the last place, and {tolerance:g} are allowed"
    layout.pads.add(own)
    return ""


def _said(error: Exception) -> str:
    return f"it could not be measured ({type(error).__name__}: {error})"


def _looks_back(config: Any) -> str:
    """The first such setting; empty if there is none."""
    return next((name for name in _LOOKS_BACK if getattr(config, name, None) not in (None, 0, 1, [], {})), "")


def _reaches(config: dict[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _reaches(value)
        elif name in _REACHES and isinstance(value, int) and value > 0:
            yield value


class _Visit(NamedTuple):
    """One visit of a location in the pass with padding, and the same one in the passes of the prompts alone."""

    value: Parts
    lengths: frozenset[int]
    alone: list[Parts]


class _Comparison:
    """Of prompts that are run together, with padding, with the same ones alone."""

    def __init__(self, layout: Layout, model: Any, own: Way) -> None:
        requests = [probe(own.generates, *sizes) for sizes in _PROMPTS]
        self._layout = layout
        self._own = own
        self._together = joined(requests)
        self._batch = record(model, self._together)
        self._shares = shares(requests)[1:]
        self._alone = [record(model, each) for each in requests[1:]]

    def run(self) -> float:
        """The largest difference of any value that is shown; infinite if the pass is not the same, or its result cannot be shown.

        How each is shown is noted in the layout.
        """
        if any(_counts(each) != _counts(self._batch) for each in self._alone):
            return float("inf")
        largest = 0.0
        for name in self._batch.values:
            number = self._layout.number(name)
            if number is None:
                continue
            location = self._layout.locations[number]
            largest = max(largest, self._relate(location))
            if name == "result" and not any(location.padded.get(form) for form in self._known(location)):
                return float("inf")
        return largest

    def _relate(self, location: Location) -> float:
        largest = 0.0
        for form, visits in self._known(location).items():
            location.padded[form] = None
            with suppress(Exception):  # objects that cannot even be compared, too
                shown = self._shown(location, form, visits)
                largest = max(largest, *(self._difference(shown, each) for each in visits))
                location.padded[form] = shown
        return largest

    def _known(self, location: Location) -> dict[int, list[_Visit]]:
        """The visits of a location, by the number of the form that the value has in the pass with padding."""
        found: dict[int, list[_Visit]] = {}
        values, calls = self._batch.values[location.name], self._batch.calls[location.name]
        for occurrence, (value, called) in enumerate(zip(values, calls, strict=True)):
            form = location.known(value.form, self._together.way)
            if form is not None:
                alone = [each.values[location.name][occurrence] for each in self._alone]
                found.setdefault(form, []).append(_Visit(value, self._together.lengths(called), alone))
        return found

    def _shown(self, location: Location, form: int, visits: Sequence[_Visit]) -> Shown:
        numbers = {location.known(own.form, self._own) for visit in visits for own in visit.alone}
        number = numbers.pop()
        if numbers or number is None:
            raise Unservable
        shown = _matched(location, form, number, visits[0].alone[0].scalars)
        for visit in visits:
            for own, share in zip(visit.alone, self._shares, strict=True):
                _note_tokens(shown, visit.value, own, share)
        return shown

    def _difference(self, shown: Shown, visit: _Visit) -> float:
        return max(
            _compare(shown, visit, own, share) for own, share in zip(visit.alone, self._shares, strict=True)
        )


def _counts(recorded: Recorded) -> dict[str, int]:
    return {name: len(values) for name, values in recorded.values.items()}


def _matched(location: Location, form: int, own: int, scalars: Sequence[Scalar]) -> Shown:
    """The parts of a value where they stand in the job's own form, with these scalars where there is something else in the pass."""
    (tensors, numbers), (own_tensors, own_numbers) = (
        paths(location.forms[each].form) for each in (form, own)
    )
    leaves: list[tuple[int, Leaf]] = []
    for path, alone in zip(own_tensors, location.forms[own].leaves, strict=True):
        if path not in tensors or alone.kind is Kind.UNKNOWN:
            raise Unservable
        index = tensors.index(path)
        leaves.append((index, PaddedLeaf(location.forms[form].leaves[index], alone.kind is Kind.WHOLE)))
    found = [numbers.index(path) if path in numbers else None for path in own_numbers]
    return Shown(own, leaves, [*zip(found, scalars, strict=True)])


def _note_tokens(shown: Shown, value: Parts, own: Parts, share: Share) -> None:
    """Dimensions in which the party's rows are longer by their padding than alone are those of tokens."""
    for (index, leaf), alone in zip(shown.leaves, own.leaves, strict=True):
        assert isinstance(leaf, PaddedLeaf)
        rows = leaf.padded(value.leaves[index], share)
        if rows.dim() != alone.dim():
            raise Unservable
        for dim, (long, short) in enumerate(zip(rows.shape, alone.shape, strict=True)):
            if long == short:
                continue
            if long - short != share.padding * leaf.rows_in(dim, share):
                raise Unservable
            leaf.tokens.add(dim)


def _compare(shown: Shown, visit: _Visit, own: Parts, share: Share) -> float:
    """How much what is shown differs from what there is alone.

    Raises:
        Unservable: it is something else.
    """
    scalars = shown.scalars_of(visit.value.scalars)
    if [(type(each), each) for each in scalars] != [(type(each), each) for each in own.scalars]:
        raise Unservable
    largest = 0.0
    for (index, leaf), alone in zip(shown.leaves, own.leaves, strict=True):
        if leaf.kind is Kind.FLAT and share.size > 1:
            continue  # is not shown to parties of several rows
        part = leaf.part(visit.value.leaves[index], share, visit.lengths)
        same = part.is_floating_point() or torch.equal(part, alone)
        if part.shape != alone.shape or part.dtype != alone.dtype or not same:
            raise Unservable
        largest = max(largest, difference(part, alone))
    return largest
