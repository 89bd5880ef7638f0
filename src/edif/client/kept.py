"""Handles of values that stay on the fabric: sliced, they bring the slice; used in a trace, nothing travels."""

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any, NoReturn

import torch

from edif.client.slices import Slice, slice_of
from edif.wire.kept import Place

Fetch = Callable[[str, list[tuple[int, memoryview]]], None]
"""Fills each memory with the bytes that begin there, of what a job keeps."""

_used: ContextVar[set[str] | None] = ContextVar("jobs whose kept values are being sent", default=None)


@contextmanager
def noting_uses() -> Iterator[set[str]]:
    """While a trace is serialised in the block: the jobs of whose kept values it makes use."""
    used: set[str] = set()
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


class Kept:
    """A tensor that a trace has kept on the fabric with ``edif.keep``.

    ``kept[index]`` and ``kept.tensor()`` fetch it, or the part of it; in a later trace on the fabric the name stands for the
    tensor itself, and nothing travels. It is kept for as long as the result of its job.

    Attributes:
        job: the id of the job that keeps it.
        shape: of the tensor.
        dtype: of the tensor.
    """

    def __init__(self, fetch: Fetch, place: Place) -> None:
        self._ask = fetch
        self._place = place
        self.job = place.job
        self.shape = torch.Size(place.shape)
        self.dtype: torch.dtype = getattr(torch, place.dtype)

    def __repr__(self) -> str:
        return (
            f"<edif.Kept {tuple(self.shape)} {self._place.dtype}, {self.nbytes:,} bytes, by job {self.job}>"
        )

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.numel() * self.dtype.itemsize

    def numel(self) -> int:
        return prod(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """The part that integers, slices, ``...`` and None name. Hardly more than that is downloaded.

        Raises:
            TypeError, IndexError: the index.
            EdifError: it cannot be had, or is not kept any more.
        """
        return self._fetch(slice_of(tuple(self.shape), self.dtype.itemsize, index))

    def tensor(self) -> torch.Tensor:
        """All of it.

        Raises:
            EdifError: it cannot be had, or is not kept any more.
        """
        return self[...]

    def __await__(self) -> Generator[Any, None, torch.Tensor]:
        """``await kept`` is all of it, without holding up the event loop."""
        return asyncio.to_thread(self.tensor).__await__()

    def _fetch(self, wanted: Slice) -> torch.Tensor:
        found = torch.empty(wanted.shape, dtype=self.dtype)
        if not found.numel():
            return found
        parts = []
        copies = []
        for position, first in wanted.pieces():
            target = found[position]
            if not wanted.gapless:
                around = torch.empty(wanted.extent, dtype=self.dtype)
                copies.append((target, around.as_strided(*wanted.inner)))
                target = around
            parts.append((self._place.start + first * self.dtype.itemsize, _memory(target)))
        self._ask(self.job, parts)
        for target, shown in copies:
            target.copy_(shown)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        used = _used.get()
        if used is not None:
            used.add(self.job)
        return self._place.__reduce__()

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{getattr(func, '__name__', func)} would need a value that is kept on the fabric. "
            "Fetch it with .tensor() or a slice, or compute with it in a trace with remote=True."
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.__torch_function__("numpy")


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor whose elements lie one after the other."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy's own stubs
