"""Values that stay on the fabric: marked by user code, written beside the result, and opened again for a later trace.

The client has this file too, for :func:`keep` is named in its code; it runs only where the trace runs.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from nnsight.tracing.tracer import save
from torch._subclasses.fake_tensor import FakeTensor

from edif.core import errors
from edif.core.errors import JobFailed
from edif.wire.kept import ALIGNMENT, Place

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        ),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        *(torch.complex64, torch.complex128),
    )
}
"""What can be kept, by the name that travels."""

_marked: dict[int, torch.Tensor] | None = None  # by id; None in a process that is no executor


def keep(value: Any) -> Any:
    """Save a value of a trace, and have it stay on the fabric: what comes back is a handle with shape and dtype.

    Without a fabric, in a trace that runs in this process, it is a plain ``save``.

    Args:
        value: a dense tensor, or lists, tuples and dicts with some in them, to any depth. What else is in them travels.

    Returns:
        The same value.

    Raises:
        TypeError: it holds no tensor, or one that cannot be kept.
    """
    tensors = list(_tensors_in(value))
    if not tensors:
        raise TypeError(
            f"edif.keep keeps tensors, and lists, tuples and dicts of them; this {type(value).__name__} has none."
        )
    if _marked is not None:
        _marked.update((id(tensor), tensor) for tensor in tensors)
    return save(value)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.dtype not in DTYPES.values() or not _has_values(value):
            raise TypeError(
                "edif.keep keeps dense tensors of ordinary dtypes; "
                f"this one is a {type(value).__name__}, {value.dtype}, {value.layout}, on {value.device}."
            )
        yield value
        return
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for each in parts:
        yield from _tensors_in(each)


def _has_values(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


class Keeping:
    """What one job keeps. Made before its code runs; from then on what is kept is marked here.

    Attributes:
        size: of all that has a place by now, in bytes.
    """

    def __init__(self) -> None:
        global _marked  # and no context variable: user code runs in threads of nnsight's, one job at a time
        self._marked: dict[int, torch.Tensor] = {}
        self._placed: dict[int, Place] = {}
        self.size = 0
        _marked = self._marked

    def place(self, tensor: torch.Tensor) -> Place | None:
        """Where this tensor will lie, the same at every call; None if it is not to be kept."""
        if id(tensor) not in self._marked:
            return None
        placed = self._placed.get(id(tensor))
        if placed is None:
            start = -(-self.size // ALIGNMENT) * ALIGNMENT
            self.size = start + tensor.numel() * tensor.element_size()
            dtype = str(tensor.dtype).removeprefix("torch.")
            placed = self._placed[id(tensor)] = Place("", start, tuple(tensor.shape), dtype)
        return placed

    @property
    def anything(self) -> bool:
        """Whether any tensor has a place by now. It may be an empty one."""
        return bool(self._placed)

    def tensors(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Those that have a place, and where they begin, in order."""
        for key, place in self._placed.items():
            yield place.start, self._marked[key].detach()

    @staticmethod
    def forget() -> None:
        """The job is over: nothing that is marked from now on is anybody's."""
        global _marked
        _marked = None


class Opened:
    """The kept values that a job may use, each job's as a file that is mapped when it is asked for.

    Args:
        files: a read-only descriptor for each job. The caller closes them, after the last use.
    """

    def __init__(self, files: dict[str, int]) -> None:
        self._files = files
        self._maps: dict[Place, mmap.mmap] = {}

    def tensor(self, place: Place) -> torch.Tensor:
        """The tensor at this place, in memory of its own as soon as it is written to.

        Raises:
            JobFailed: there is no such place. What a client sends may say anything.
        MemoryError: the job may not have so much.
        """
        dtype = DTYPES.get(place.dtype)
        if place.job not in self._files or dtype is None or not _is_plain(place):
            raise _no_such(place)
        count = prod(place.shape)
        size = os.fstat(self._files[place.job]).st_size
        if place.start + count * dtype.itemsize > size:
            raise _no_such(place)
        if count == 0:
            return torch.empty(place.shape, dtype=dtype)
        if place not in self._maps:
            self._maps[place] = self._mapped(place, count * dtype.itemsize)
        offset = place.start % mmap.ALLOCATIONGRANULARITY
        values = torch.frombuffer(self._maps[place], dtype=dtype, count=count, offset=offset)
        return values.view(place.shape)

    def _mapped(self, place: Place, size: int) -> mmap.mmap:
        """Its bytes and no others, for they count against what the job may have: from the beginning of the page that it begins in."""
        before = place.start % mmap.ALLOCATIONGRANULARITY
        try:
            return mmap.mmap(
                self._files[place.job], before + size, access=mmap.ACCESS_COPY, offset=place.start - before
            )
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise MemoryError(f"cannot allocate {size} bytes") from error


def _is_plain(place: Place) -> bool:
    numbers = (place.start, *place.shape)
    return all(type(each) is int and each >= 0 for each in numbers) and place.start % ALIGNMENT == 0


def _no_such(place: Place) -> JobFailed:
    return JobFailed(
        errors.PAYLOAD_UNREADABLE,
        f"The trace uses a kept value that it was not sent with: {str(place)[:200]}.",
    )
