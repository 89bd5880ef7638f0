"""What a trace needs for its forward pass, if a shared one can give it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids"})
_COUNTS = frozenset({"max_new_tokens", "min_new_tokens", "eos_token_id", "pad_token_id"})
_TRUE_OR_FALSE = frozenset({"do_sample", "use_cache"})
_NUMBERS = frozenset({"repetition_penalty"})

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
    def magnitude(self) -> tuple[Any, ...]:
        """Requests of one magnitude take about as long."""
        return (self.way, self.tokens.bit_length(), self.size.bit_length())

    @property
    def size(self) -> int:
        """Tokens that its pass computes at most."""
        new = dict(self.options).get("max_new_tokens")
        return self.rows * (self.tokens + (new if isinstance(new, int) else 0))

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        given = {"input_ids": self.ids}
        given["attention_mask"] = torch.ones_like(self.ids) if self.mask is None else self.mask
        return given if self.positions is None else given | {"position_ids": self.positions}


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
    return all(
        (name in _COUNTS and type(value) is int)
        or (name in _NUMBERS and type(value) in (int, float))
        or (name in _TRUE_OR_FALSE and type(value) is bool)
        or (name == "num_beams" and value == 1)
        for name, value in options.items()
    ) and not options.get("do_sample", False)
