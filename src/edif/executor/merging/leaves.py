"""Which part of a tensor of a shared pass belongs to one of the parties."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

import torch


class Unservable(Exception):
    """A value that is not as it was when the model was loaded."""


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


class Share(NamedTuple):
    """A party's part of a pass.

    Attributes:
        start: its first row.
        size: how many rows it has.
        total: how many all parties have.
        padding: positions that stand before its own in each of its rows.
    """

    start: int
    size: int
    total: int
    padding: int = 0


class Leaf(Protocol):
    """How one tensor of a value is shown to a party."""

    @property
    def kind(self) -> Kind: ...

    @property
    def writable(self) -> bool:
        """Whether a party has a part of it to itself, and may change that."""

    def part(self, tensor: torch.Tensor, share: Share, lengths: frozenset[int]) -> torch.Tensor:
        """What belongs to the party; a view.

        Args:
            lengths: sizes that a dimension of tokens can have at this time, padding included.

        Raises:
            Unservable: the tensor has not the size that it should have.
        """


@dataclass(slots=True)
class LeafLayout:
    """Of one tensor of a form. ``dim`` is the dimension of the rows, ``tracked`` whether gradients flow through it in a job's own pass."""

    kind: Kind
    dim: int
    tracked: bool

    @property
    def writable(self) -> bool:
        return self.kind is not Kind.WHOLE

    def part(self, tensor: torch.Tensor, share: Share, lengths: frozenset[int]) -> torch.Tensor:
        return self.rows(tensor, share.start, share.size, share.total)

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


@dataclass(slots=True)
class PaddedLeaf:
    """Of one tensor in a pass whose shorter rows are padded on the left.

    Attributes:
        layout: in that pass.
        whole: in the job's own pass it is the same for all rows, and one row of it is shown.
        tokens: dimensions that count tokens, unless their size is 1.
    """

    layout: LeafLayout
    whole: bool
    tokens: set[int] = field(default_factory=set)

    @property
    def kind(self) -> Kind:
        return self.layout.kind

    @property
    def writable(self) -> bool:
        return self.layout.writable and not self.whole

    def padded(self, tensor: torch.Tensor, share: Share) -> torch.Tensor:
        """The party's rows, with their padding."""
        return self.layout.rows(tensor, share.start, 1 if self.whole else share.size, share.total)

    def rows_in(self, dim: int, share: Share) -> int:
        """How many rows lie one behind the other in this dimension."""
        return share.size if self.kind is Kind.FLAT and dim == self.layout.dim and not self.whole else 1

    def part(self, tensor: torch.Tensor, share: Share, lengths: frozenset[int]) -> torch.Tensor:
        part = self.padded(tensor, share)
        for dim in self.tokens:
            if dim >= part.dim():
                continue
            rows = self.rows_in(dim, share)
            length, rest = divmod(part.shape[dim], rows)
            if length == 1 and not rest:
                continue  # a step of a generation
            if length not in lengths or rest or (rows > 1 and share.padding):
                raise Unservable
            part = part.narrow(dim, share.padding, part.shape[dim] - share.padding)
        return part


def has_own_memory(tensor: torch.Tensor) -> bool:
    """Whether each element has memory of its own, so that one can write to some of them."""
    return not any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
