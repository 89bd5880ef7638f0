"""Which tensors of a pass are one and the same, or lie in the same memory.

A module's output is the next one's input: one tensor, met twice. In a pass of its own a job that writes to the second sees the
first one change. Copies of rows have no such ties, so they are told apart by number.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Identity(NamedTuple):
    """Numbers within one pass: of the tensor, and of the memory that it lies in."""

    tensor: int
    memory: int


class Identities:
    """Numbers tensors as they are met. What shows the same elements in the same way is the same tensor."""

    def __init__(self) -> None:
        self._memories: dict[int, tuple[int, StorageWeakRef]] = {}
        """By address, which nobody else has while the reference is held: the memory's number, and whether it is still there."""
        self._tensors: dict[tuple[object, ...], int] = {}
        self._of_tensor: dict[int, StorageWeakRef] = {}
        self._count = 0

    def of(self, tensor: torch.Tensor) -> Identity:
        reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        memory, reference = self._memories.setdefault(reference.cdata, (self._next(), reference))
        shown = (memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        number = self._tensors.get(shown)
        if number is None:
            number = self._tensors[shown] = self._next()
            self._of_tensor[number] = reference
        return Identity(number, memory)

    def gone(self, tensors: Iterable[int]) -> list[int]:
        """Those of these tensors that the pass has no more use for: their memory has been given back."""
        return [each for each in tensors if self._of_tensor[each].expired()]  # type: ignore[no-untyped-call]

    def _next(self) -> int:
        self._count += 1
        return self._count
