"""What a trace needs for its forward pass, if a shared one can give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from edif.executor.merging.leaves import Share

_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids"})
_COUNTS = frozenset({"max_new_tokens", "min_new_tokens", "eos_token_id", "pad_token_id"})
_TRUE_OR_FALSE = frozenset({"do_sample", "use_cache"})
_NUMBERS = frozenset({"repetition_penalty"})
"""What it does depends on the tokens of the prompt, and would on those of padding."""

Option = bool | int | float | str | None


class Way(NamedTuple):
    """How a model is called: what it computes beside has other rows when it is told of padding or positions."""

    generates: bool
    masked: bool
    positioned: bool


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """
    Attributes:
        generates: whether it generates, greedily, or is one forward pass.
        ids: int64 ``[rows, tokens]``.
        mask: the attention mask, int64 ``[rows, tokens]``; None if it is all ones.
        positions: position ids, int64 ``[rows, tokens]``; None if the model counts them itself.
        options: of the generation.
    """

    generates: bool
    ids: torch.Tensor
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    options: tuple[tuple[str, Option], ...] = ()

    @property
    def rows(self) -> int:
        return self.ids.shape[0]

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    @property
    def way(self) -> Way:
        return Way(self.generates, self.mask is not None, self.positions is not None)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can share a pass, and give the same bits as alone: the same kernels run."""
        return self.way, self.tokens, self.options

    @property
    def bucket(self) -> tuple[Any, ...] | None:
        """Requests of one bucket come out alike with padding, less than as much again as they have tokens; None if one does not."""
        options = dict(self.options)
        by_default = self.generates and not isinstance(options.get("max_new_tokens"), int)
        if (
            self.mask is not None
            or self.positions is not None
            or by_default
            or not _NUMBERS.isdisjoint(options)
        ):
            return None
        return self.way, self.tokens.bit_length(), self.options

    @property
    def magnitude(self) -> tuple[Any, ...]:
        """Requests of one magnitude take about as long."""
        return (self.way, self.tokens.bit_length(), self.size.bit_length())

    @property
    def length(self) -> int:
        """Tokens of each row at most, those that it generates included."""
        new = dict(self.options).get("max_new_tokens")
        return self.tokens + (new if isinstance(new, int) else 0)

    @property
    def size(self) -> int:
        """Tokens that its pass computes at most."""
        return self.rows * self.length

    def lengths(self, calls: int) -> frozenset[int]:
        """Sizes that a dimension of tokens can have when the model was called so often, that of one token apart."""
        if not self.generates:
            return frozenset((self.tokens,))
        return frozenset((self.tokens + max(calls, 1) - 1, self.tokens + calls))

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        given = {"input_ids": self.ids}
        given["attention_mask"] = torch.ones_like(self.ids) if self.mask is None else self.mask
        return given if self.positions is None else given | {"position_ids": self.positions}


_PAD = 0
"""The token of padding: any that the model knows, for no other position attends to it."""


def joined(requests: Sequence[Request]) -> Request:
    """One request with the rows of all of these, which are of one kind; or of one bucket: then the shorter ones are padded on the left."""
    first = requests[0]
    tokens = max(each.tokens for each in requests)
    if any(each.tokens < tokens for each in requests):
        return _padded(requests, tokens)
    ids = torch.cat([each.ids for each in requests])
    mask = None if first.mask is None else torch.cat([each.inputs()["attention_mask"] for each in requests])
    positions = (
        None if first.positions is None else torch.cat([each.inputs()["position_ids"] for each in requests])
    )
    return Request(first.generates, ids, mask, positions, first.options)


def shares(requests: Sequence[Request]) -> list[Share]:
    """Which part of the joined request each of these is."""
    total, tokens = sum(each.rows for each in requests), max(each.tokens for each in requests)
    found, start = [], 0
    for each in requests:
        found.append(Share(start, each.rows, total, tokens - each.tokens))
        start += each.rows
    return found


def _padded(requests: Sequence[Request], tokens: int) -> Request:
    before = [(tokens - each.tokens, 0) for each in requests]
    ids = [pad(each.ids, width, value=_PAD) for each, width in zip(requests, before, strict=True)]
    mask = torch.cat(
        [pad(torch.ones_like(each.ids), width) for each, width in zip(requests, before, strict=True)]
    )
    # As transformers counts them where there is padding.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Request(requests[0].generates, torch.cat(ids), mask, positions, requests[0].options)


def request_of(generates: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request | None:
    """The request for a call with these arguments; None if it asks for what a shared pass does not give."""
    ids, mask, positions = (kwargs.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    if (
        args
        or ids is None
        or not all(_whole_numbers(each) for each in (ids, mask, positions) if each is not None)
    ):
        return None
    if any(each is not None and each.shape != ids.shape for each in (mask, positions)):
        return None
    options = {name: value for name, value in kwargs.items() if name not in _INPUTS}
    if not _plain(options, generates):
        return None
    if mask is not None and bool((mask == 1).all()):
        mask = None
    return Request(generates, ids, mask, positions, tuple(sorted(options.items())))


def _whole_numbers(value: Any) -> bool:
    return (
        type(value) is torch.Tensor and value.dtype is torch.int64 and value.dim() == 2 and value.numel() > 0
    )


def _plain(options: Mapping[str, Any], generates: bool) -> bool:
    """Whether these are options of a greedy generation, of which each row comes out as it would alone."""
    if not generates:
        return not options
    new = options.get("max_new_tokens")
    if type(new) is not int or new < 1:
        return False  # by default it may be any number, and transformers warns of that
    return all(
        (name in _COUNTS and type(value) is int)
        or (name in _NUMBERS and type(value) in (int, float))
        or (name in _TRUE_OR_FALSE and type(value) is bool)
        or (name == "num_beams" and value == 1)
        for name, value in options.items()
    ) and not options.get("do_sample", False)
