"""Which tensors of a pass are one and the same, or lie in the same memory.

A module's output is the next one's input: one tensor, met twice. In a pass of its own a job that writes to the second sees the
first one change. Copies of rows have no such ties, so they are told apart by number.
"""

from typing import NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Identity(NamedTuple):
    """Numbers within one pass.

    Attributes:
        tensor: of the tensor.
        memory: of the memory that it lies in.
        successor: of what the pass goes on with, should a job put another tensor in its place at this visit.
    """

    tensor: int
    memory: int
    successor: int


class Identities:
    """Numbers tensors as they are met. What shows the same elements in the same way is the same tensor."""

    def __init__(self) -> None:
        self._memories: dict[int, tuple[int, StorageWeakRef]] = {}
        """By address, which nobody else has while the reference is held: the memory's number, and whether it is still there."""
        self._tensors: dict[tuple[object, ...], int] = {}
        self._of_tensor: dict[int, StorageWeakRef] = {}
        self._count = 0

    def of(self, tensor: torch.Tensor) -> Identity:
        number, memory = self._numbers(tensor)
        return Identity(number, memory, self._next())

    def succeeds(self, tensor: torch.Tensor, identity: Identity) -> None:
        """This tensor, a new one, has taken the place of the one with this identity."""
        self._numbers(tensor, identity.successor)

    def _numbers(self, tensor: torch.Tensor, given: int | None = None) -> tuple[int, int]:
        reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        memory, reference = self._memories.setdefault(reference.cdata, (self._next(), reference))
        shown = (memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        number = self._tensors.get(shown)
        if number is None:
            number = self._tensors[shown] = self._next() if given is None else given
            self._of_tensor[number] = reference
        return number, memory

    def forget_gone(self) -> None:
        """Remember nothing any more of memory that has been given back: a generation comes by new tensors at each step."""
        self._memories = {
            address: known
            for address, known in self._memories.items()
            if not known[1].expired()  # type: ignore[no-untyped-call]
        }
        there = {memory for memory, _ in self._memories.values()}
        self._tensors = {shown: number for shown, number in self._tensors.items() if shown[0] in there}
        left = set(self._tensors.values())
        self._of_tensor = {number: each for number, each in self._of_tensor.items() if number in left}

    def is_gone(self, tensor: int) -> bool:
        """Whether the pass has no more use for it: its memory has been given back, or it never came to be."""
        reference = self._of_tensor.get(tensor)
        return reference is None or bool(reference.expired())  # type: ignore[no-untyped-call]

    def _next(self) -> int:
        self._count += 1
        return self._count


class Ties:
    """The tensors of a pass as one job knows them.

    Where another job has put a tensor in place of the model's, the pass goes on with a new one, in which this job's rows are
    what they were: for this job it is still the old one.
    """

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._known_as: dict[int, int] = {}
        self._shown: set[int] = set()

    def name(self, identity: Identity) -> Identity:
        """Under what numbers the job is shown this tensor."""
        known = identity._replace(tensor=self._known_as.get(identity.tensor, identity.tensor))
        self._shown |= {known.tensor, known.successor}
        return known

    def goes_on(self, identity: Identity) -> None:
        """The pass goes on with the successor of this tensor, which is the same to this job."""
        self._known_as[identity.successor] = self._known_as.get(identity.tensor, identity.tensor)

    def whole(self, identity: Identity) -> bool:
        """Whether this is all that there is of what the job knows as one tensor: what it writes there reaches everything."""
        known = self._known_as.get(identity.tensor)
        return known is None or self._identities.is_gone(known)

    def gone(self) -> list[int]:
        """Numbers that the job was shown, and that the pass has no more use for. Told once.

        To be asked between visits: while one lasts, the successors of its tensors may still come to be.
        """
        for new in [each for each in self._known_as if self._identities.is_gone(each)]:
            del self._known_as[new]
        in_use = set(self._known_as.values())
        gone = [each for each in self._shown if each not in in_use and self._identities.is_gone(each)]
        self._shown.difference_update(gone)
        return gone
