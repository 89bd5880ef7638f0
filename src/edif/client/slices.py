"""Which bytes of a tensor that lies elsewhere a slice of it needs."""

import operator
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from types import EllipsisType
from typing import Any

import torch

from edif.client.link_speed import REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a tensor, written row by row, that an index names.

    It is fetched as one piece for each position in its first ``split`` dimensions.

    Attributes:
        shape: of the slice.
        strides: of its dimensions, in elements of the whole tensor.
        offset: of its first element.
        split: how many of its dimensions are gone through one by one.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    split: int

    @property
    def inner(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of what one piece shows."""
        return self.shape[self.split :], self.strides[self.split :]

    @property
    def extent(self) -> int:
        """Elements from the first to the last that one piece shows."""
        return _extent(*self.inner)

    @property
    def gapless(self) -> bool:
        """Whether a piece has nothing but what is wanted, in order."""
        shape, strides = self.inner
        expected = 1
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True

    def pieces(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Each position in the first dimensions, and the first element of its piece."""
        steps = self.strides[: self.split]
        for position in product(*map(range, self.shape[: self.split])):
            yield position, self.offset + sum(at * step for at, step in zip(position, steps, strict=True))


def slice_of(shape: tuple[int, ...], itemsize: int, index: Any) -> Slice:
    """What ``tensor[index]`` shows of a tensor of this shape, divided so that it is soonest here.

    Raises:
        TypeError: the index has more than integers, slices, ``...`` and None.
        IndexError: it lies outside, as torch has it.
    """
    plain = tuple(map(_plain, index)) if isinstance(index, tuple) else _plain(index)
    shown = torch.empty(shape, dtype=torch.uint8, device="meta")[plain]
    found, strides, offset = tuple(shown.shape), tuple(shown.stride()), int(shown.storage_offset())

    def cost(split: int) -> int:
        return prod(found[:split]) * (REQUEST_BYTES + itemsize * _extent(found[split:], strides[split:]))

    return Slice(found, strides, offset, min(range(len(found) + 1), key=cost))


def _plain(each: Any) -> Any:
    """One part of an index; whatever stands for an integer becomes one."""
    if each is None or isinstance(each, slice | EllipsisType):
        return each
    truth = isinstance(each, bool) or str(getattr(each, "dtype", "")) in ("bool", "torch.bool")
    if not truth and getattr(each, "ndim", 0) == 0:
        with suppress(TypeError):
            return operator.index(each)
    raise TypeError(
        "A kept value is indexed with integers, slices, `...` and None. "
        "For other indices fetch what they need with .tensor() or a slice, or index it in a trace."
    )


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
