"""What ``torch.save`` would write, laid out without copying a tensor, so that its exact size is known before its first byte.

torch's writer hands each storage to its target as a view of the storage's own memory. The target here keeps that view
in place of the bytes, and copies the little else. A tensor that shows part of its storage is written as that part:
torch is given a stand-in of the right size, whose memory nobody touches, and the bytes are gathered from the tensor in
pieces when they are wanted; so are those of a tensor on a device. What is small is copied: that costs less. A numpy array is written as a tensor on the same memory, and a
tensor that is to travel rounded as a narrower stand-in. ``docs/decisions/0013-results-in-one-pass.md`` says what this costs and saves.
"""

import pickle
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch

from edif.executor.keeping import Keeping
from edif.executor.parts import PIECE_BYTES, Part, Piece, plain
from edif.wire.kept import Place

__all__ = ["PIECE_BYTES", "Archive", "lay_out"]


_SMALL_BYTES = 64 * 1024
_PROTOCOL = 2  # torch's own


class Archive:
    """Bytes of one archive, of which the large parts lie in tensors that must not change meanwhile.

    Attributes:
        size: all of it, in bytes.
        rounded: how many tensors are in it as narrower floats than they are.
    """

    def __init__(
        self, parts: list[Part], size: int, rounded: int, storages: list[torch.UntypedStorage]
    ) -> None:
        self._parts = parts
        self._storages = storages  # whose memory the parts are: torch's views of it do not hold it
        self.size = size
        self.rounded = rounded

    def samples(self, count: int, length: int) -> list[tuple[bytes, int]]:
        """So many parts of about ``length`` bytes each, spread evenly, with the width of their elements."""
        wanted = [self.size * number // count for number in range(count)]
        found = []
        start = 0
        for part in self._parts:
            end = start + part.size
            found += [(part.sample(at - start, length), part.width) for at in wanted if start <= at < end]
            start = end
        return found

    def pieces(self) -> Iterator[Piece]:
        """The bytes in order, at most ``PIECE_BYTES`` at a time, each of one part."""
        for part in self._parts:
            yield from part.pieces()


def lay_out(
    saved: dict[str, Any], rounding: torch.dtype | None = None, keeping: Keeping | None = None
) -> Archive:
    """The archive that ``torch.load`` reads ``saved`` from. Whatever a value raises while it is pickled passes through.

    Args:
        rounding: tensors of wider floats travel as this; what reads them has their own dtype again. Only plain tensors and
            parameters: arrays, numbers and complex values stay as they are.
        keeping: what the job keeps; of such tensors the archive has their places.
    """
    layout = _Layout(frozenset(), rounding, keeping)
    layout.take(saved)
    if layout.bases_of_parts & layout.whole:
        # A tensor and a part of it: the part then refers to the tensor's bytes, which are there anyway.
        layout = _Layout(frozenset(layout.whole), rounding, keeping)
        layout.take(saved)
    return Archive(layout.parts(), layout.size, layout.rounded, layout.storages())


class _Memory(NamedTuple):
    """Where a storage lies. Two of one address are not the same if an array shows the beginning of a tensor."""

    address: int
    size: int


class _Written(NamedTuple):
    """A storage, in one of the two ways in which it can be written."""

    memory: _Memory
    rounded: bool


class _Made(NamedTuple):
    """Is pickled as what a function makes of these, for each place that refers to it the same one."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


# Methods, so that any torch reads them; taken now, for a job may put others in their place.
_to, _as_strided, _detach = torch.Tensor.to, torch.Tensor.as_strided, torch.Tensor.detach
_requires_grad_, _numpy = torch.Tensor.requires_grad_, torch.Tensor.numpy


class _Layout:
    """The target of one ``torch.save``.

    Args:
        written_whole: storages of which no part needs a copy of its own.
        rounding: what wider floats are written as.
    """

    def __init__(
        self, written_whole: frozenset[_Written], rounding: torch.dtype | None, keeping: Keeping | None
    ) -> None:
        self.size = 0
        self.rounded = 0
        self.whole: set[_Written] = set()
        self.bases_of_parts: set[_Written] = set()
        self._written_whole = written_whole
        self._rounding = rounding
        self._keeping = keeping
        self._parts: list[Part] = []
        self._copied = bytearray()
        self._storages: dict[_Memory, torch.UntypedStorage] = {}
        self._dtypes: dict[int, torch.dtype] = {}
        self._shown: dict[_Memory, Part] = {}
        self._stand_ins: dict[Hashable, torch.Tensor] = {}
        self._restored: dict[Hashable, _Made] = {}
        self._arrays: dict[int, torch.Tensor] = {}
        self._narrow: dict[int, torch.Tensor] = {}

    def take(self, saved: dict[str, Any]) -> None:
        token = _taking.set(self)
        try:
            with _without_checksums():
                torch.save(saved, cast("IO[bytes]", self), pickle_module=_Pickling)
        finally:
            _taking.reset(token)

    def parts(self) -> list[Part]:
        return [*self._parts, Part(memoryview(self._copied))]

    def storages(self) -> list[torch.UntypedStorage]:
        return list(self._storages.values())

    def write(self, data: memoryview | bytes) -> int:
        """Called by torch, with a storage's own memory or with something that it makes for the call."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        part = self._in_place(view) if len(view) > _SMALL_BYTES else None
        if part is None:
            self._copied += view
        else:
            self._parts += [Part(memoryview(self._copied)), part]
            self._copied = bytearray()
        return len(view)

    def _in_place(self, view: memoryview) -> Part | None:
        """Where these bytes lie for longer than this call, None if nowhere."""
        memory = _Memory(int(np.frombuffer(view, np.uint8).ctypes.data), len(view))
        if memory in self._shown:
            return self._shown[memory]
        return Part(view, self._dtypes.get(memory.address)) if memory in self._storages else None

    def flush(self) -> None:
        """Nothing waits here."""

    def reduce(self, value: Any) -> Any:
        """How ``value`` is pickled, where that is not as it would be."""
        if type(value) is _Made:
            return value.function, value.arguments
        if type(value) is np.ndarray:
            return self._reduce_array(value)
        place = self._kept_at(value)
        if place is not None:
            return place.__reduce__()
        if type(value) is torch.Tensor and _has_bytes(value) and id(value) not in self._narrow:
            return self._reduce_tensor(value)
        return NotImplemented

    def _kept_at(self, value: Any) -> Place | None:
        return (
            None
            if self._keeping is None or not isinstance(value, torch.Tensor)
            else self._keeping.place(value)
        )

    def _reduce_array(self, array: "np.ndarray[Any, Any]") -> Any:
        tensor = _tensor_of(array)
        if tensor is None:
            return NotImplemented
        self._arrays[id(tensor)] = tensor
        return _numpy, (tensor,)

    def _reduce_tensor(self, value: torch.Tensor) -> Any:
        memory = _memory_of(value)
        # Held, so that nothing else comes to lie at its address.
        self._storages[memory] = value.untyped_storage()
        written = _Written(memory, self._is_rounded(value))
        whole = written in self._written_whole or memory.size <= value.numel() * value.element_size()
        whole = whole and value.device.type == "cpu"
        if written.rounded:
            whole = whole and not value.is_neg()
            (self.whole if whole else self.bases_of_parts).add(written)
            return self._reduce_rounded(value, whole=whole)
        if whole and self._is_first_dtype(memory, value.dtype):
            self.whole.add(written)
            return NotImplemented
        self.bases_of_parts.add(written)
        stand_in = self._stand_in(value.detach(), value.dtype)
        return stand_in.requires_grad_(value.requires_grad).__reduce_ex__(_PROTOCOL)  # type: ignore[no-untyped-call]

    def _is_first_dtype(self, memory: _Memory, dtype: torch.dtype) -> bool:
        """torch writes what lies at one address as one dtype only; what shows it as another one gets a stand-in."""
        return memory.size == 0 or self._dtypes.setdefault(memory.address, dtype) == dtype

    def _is_rounded(self, value: torch.Tensor) -> bool:
        return (
            self._rounding is not None
            and value.is_floating_point()
            and value.element_size() > self._rounding.itemsize
            and value.numel() > 0
            and id(value) not in self._arrays
        )

    def _reduce_rounded(self, value: torch.Tensor, *, whole: bool) -> Any:
        """Values that travel narrower, and are made wide again once for all tensors that show them."""
        self.rounded += 1
        if whole:
            geometry = (tuple(value.shape), value.stride(), value.storage_offset())
            made = _Made(_as_strided, (self._restore(_flat(value), whole=True), *geometry))
        else:
            made = _Made(_detach, (self._restore(value.detach(), whole=False),))
        if value.requires_grad:
            made = _Made(_requires_grad_, (made, True))
        return made.function, made.arguments

    def _restore(self, shown: torch.Tensor, *, whole: bool) -> _Made:
        place = _place(shown)
        if place not in self._restored:
            assert self._rounding is not None
            stand_in = self._stand_in(shown, self._rounding, whole=whole)
            self._narrow[id(stand_in)] = stand_in
            self._restored[place] = _Made(_to, (stand_in, shown.dtype))
        return self._restored[place]

    def _stand_in(self, shown: torch.Tensor, dtype: torch.dtype, *, whole: bool = False) -> torch.Tensor:
        """A tensor of its own, the same one for equal parts of one storage.

        Args:
            whole: it is all of a storage and wider than ``dtype``: then memory of its own will do, which nobody reads either.
        """
        place = (*_place(shown), dtype)
        if place not in self._stand_ins:
            if shown.numel() * dtype.itemsize > _SMALL_BYTES:
                stand_in = (
                    _within(shown, dtype) if whole else torch.empty(shown.shape, dtype=dtype, device="cpu")
                )
                self._shown[_memory_of(stand_in)] = Part(shown, dtype)
            else:
                stand_in = plain(shown, dtype).clone()
            self._stand_ins[place] = stand_in
        return self._stand_ins[place].detach()


def _has_bytes(tensor: torch.Tensor) -> bool:
    """Whether its values lie one after the other somewhere, in this process's memory or on a device."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized


def _place(shown: torch.Tensor) -> tuple[Hashable, ...]:
    return (shown.data_ptr(), shown.dtype, shown.shape, shown.stride(), shown.is_conj(), shown.is_neg())


def _memory_of(tensor: torch.Tensor) -> _Memory:
    storage = tensor.untyped_storage()
    return _Memory(storage.data_ptr(), storage.nbytes())


def _within(flat: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor with as many, narrower, elements, within the same memory: from its second byte on, where nothing else begins."""
    size = flat.numel() * dtype.itemsize
    return torch.from_numpy(flat.view(torch.uint8).numpy()[1 : 1 + size]).view(dtype)


def _flat(value: torch.Tensor) -> torch.Tensor:
    """All of its storage."""
    storage = value.untyped_storage()
    count = storage.nbytes() // value.element_size()
    return torch.empty(0, dtype=value.dtype, device="cpu").set_(storage, 0, (count,), (1,))


def _tensor_of(array: "np.ndarray[Any, Any]") -> torch.Tensor | None:
    """A tensor on the array's memory, None for one that is better pickled."""
    writeable = array.flags.writeable  # torch has no tensors that are only read
    if array.nbytes <= _SMALL_BYTES or not writeable or not array.dtype.isnative:
        return None
    try:
        tensor = torch.from_numpy(array)
    except (TypeError, ValueError):  # a dtype or strides that torch does not have
        return None
    shows_itself_twice = tensor.untyped_storage().nbytes() < array.nbytes
    return None if shows_itself_twice else tensor


class _Pickling:
    """The ``pickle_module`` of a layout."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            return _taking.get().reduce(value)


_taking: ContextVar[_Layout] = ContextVar("taking")


@contextmanager
def _without_checksums() -> Iterator[None]:
    """torch would read every tensor for a sum that ``torch.load`` does not check; the result has a better one."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
