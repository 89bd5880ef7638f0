"""The memory that the driver and one job's process share, as torch tensors on both sides.

It begins with the counts of visits; then come leaves, and as much room again for tensors that take their place. Its size
is sealed, so neither side can take it from under the other.
"""

import fcntl
import math
import mmap
import os
from array import array
from collections.abc import Sequence

import torch

from edif.executor.keeping import DTYPES
from edif.executor.merging.identity import Identity
from edif.wire import seat

_ALIGN = 64
_LEAST = 1 << 20


class Region:
    """A mapped memory file.

    Args:
        fd: the file. It may be closed afterwards.
        start: where leaves begin.
        span: how far behind a leaf its replacement lies.
    """

    def __init__(self, fd: int, start: int, span: int) -> None:
        self.start = start
        self.span = span
        self._map = mmap.mmap(fd, start + 2 * span)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self.counts = self._bytes[:start].view(torch.int32)

    def set_counts(self, counts: "array[int]") -> None:
        self._map[: len(counts) * counts.itemsize] = counts.tobytes()

    def tensor(self, leaf: seat.Leaf, *, replacement: bool = False) -> torch.Tensor:
        """The tensor at a leaf's place, or at that of its replacement; a view of this memory.

        Raises:
            ValueError: there is no such place.
        """
        dtype = DTYPES.get(leaf.dtype)
        if dtype is None or len(leaf.shape) != len(leaf.strides):
            raise ValueError(f"no leaf: {leaf}")
        size = math.prod(leaf.shape) * dtype.itemsize
        if leaf.offset + size > self.span:
            raise ValueError("a leaf does not fit its memory")
        first = self.start + leaf.offset + (self.span if replacement else 0)
        return self._bytes[first : first + size].view(dtype).as_strided(leaf.shape, leaf.strides)


def place(tensors: Sequence[torch.Tensor], identities: Sequence[Identity]) -> tuple[list[seat.Leaf], int]:
    """Where these tensors go, one after the other, and how many bytes they take. The order of their dimensions is kept."""
    leaves, end = [], 0
    for tensor, identity in zip(tensors, identities, strict=True):
        dtype = str(tensor.dtype).removeprefix("torch.")
        leaves.append(seat.Leaf(end, list(tensor.shape), _dense(tensor), dtype, *identity))
        end += -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
    return leaves, end


def _dense(tensor: torch.Tensor) -> list[int]:
    """Strides without gaps, the dimensions in the order in which this tensor has them: sums run in that order."""
    strides = [0] * tensor.dim()
    step = 1
    for dim in sorted(
        range(tensor.dim()), key=lambda dim: (tensor.stride(dim), tensor.shape[dim] != 1, -dim)
    ):
        strides[dim] = step
        step *= tensor.shape[dim]
    return strides


def memory_file(locations: int, span: int) -> tuple[int, int, int]:
    """A new memory file, of sealed size: its descriptor, ``start`` and ``span``.

    Raises:
        OSError: too many open files, or no room.
    """
    start = -(-max(locations, 1) * 4 // mmap.PAGESIZE) * mmap.PAGESIZE
    span = max(_LEAST, 1 << (span - 1).bit_length()) if span else _LEAST
    fd = os.memfd_create("edif-seat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, start + 2 * span)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd, start, span
