"""Handles of values that stay on the fabric: sliced, they bring the slice; used in a trace, nothing travels."""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import astuple
from math import prod
from typing import Any, NoReturn

import torch

from edif.client.slices import Slice, slice_of
from edif.wire.kept import Place, being_sent

Fetch = Callable[[str, list[tuple[int, memoryview]]], None]
"""Fills each memory with the bytes that begin there, of what a job keeps."""

_anywhere: list[Fetch] = []  # one: how a handle that was pickled fetches


def fetch_with(fetch: Fetch) -> None:
    """From now on handles that come out of a pickle fetch so."""
    _anywhere[:] = [fetch]


def handle(place: tuple[str, int, tuple[int, ...], str]) -> "Kept":
    """What a pickled handle becomes again: it asks the fabric that the program is connected with then."""
    return Kept(_anywhere[0], Place(*place))


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
        if being_sent():
            return self._place.__reduce__()
        return handle, (astuple(self._place),)

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{getattr(func, '__name__', func)} would need a value that is kept on the fabric. "
            "Fetch it with .tensor() or a slice, or compute with it in a trace with remote=True."
        )

    def __bool__(self) -> bool:
        self.__torch_function__("bool")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.__torch_function__("numpy")


def _refuses(name: str) -> Any:
    return lambda self, *_: self.__torch_function__(name)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Kept, f"__{_name}__", _refuses(_name))
    setattr(Kept, f"__r{_name}__", _refuses(_name))
for _name in ("neg", "abs", "invert", "lt", "le", "gt", "ge", "float", "int"):
    setattr(Kept, f"__{_name}__", _refuses(_name))


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor whose elements lie one after the other."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy's own stubs
