"""What ``torch.save`` would write, laid out without copying a tensor, so that its exact size is known before its first byte.

torch's writer hands each storage to its target as a view of the storage's own memory. The target here keeps that view
in place of the bytes, and copies the little else. A tensor that shows part of its storage is written as that part:
torch is given a stand-in of the right size, whose memory nobody touches, and the bytes are gathered from the tensor in
pieces when they are wanted. What is small is copied: that costs less. ``docs/decisions/0013-results-in-one-pass.md`` says what this costs and saves.
"""

import pickle
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any, cast

import numpy as np
import torch

from edif.core.limits import MIB
from edif.executor.keeping import Keeping

PIECE_BYTES = 4 * MIB
_SMALL_BYTES = 64 * 1024
_PROTOCOL = 2  # torch's own


class Archive:
    """Bytes of one archive, of which the large parts lie in tensors that must not change meanwhile.

    Attributes:
        size: all of it, in bytes.
    """

    def __init__(self, parts: "list[_Part]", size: int, storages: list[torch.UntypedStorage]) -> None:
        self._parts = parts
        self._storages = storages  # whose memory the parts are: torch's views of it do not hold it
        self.size = size

    def sample(self, count: int, length: int) -> bytes:
        """So many parts of about ``length`` bytes each, spread evenly."""
        wanted = [self.size * number // count for number in range(count)]
        found = []
        start = 0
        for part in self._parts:
            end = start + _size(part)
            for at in wanted:
                if start <= at < end:
                    found.append(bytes(_from(part, at - start)[:length]))
            start = end
        return b"".join(found)

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order, at most ``PIECE_BYTES`` at a time; each is good until the next is asked for."""
        for part in self._parts:
            if isinstance(part, torch.Tensor):
                yield from gathered(part)
            else:
                for start in range(0, len(part), PIECE_BYTES):
                    yield part[start : start + PIECE_BYTES]


_Part = memoryview | torch.Tensor


def _size(part: _Part) -> int:
    return part.numel() * part.element_size() if isinstance(part, torch.Tensor) else len(part)


def _from(part: _Part, at: int) -> memoryview:
    """What begins near ``at``, at most a piece of it."""
    if isinstance(part, torch.Tensor):
        return next(gathered(part[len(part) * at // _size(part) :]))
    return part[at : at + PIECE_BYTES]


def lay_out(saved: dict[str, Any], keeping: Keeping | None = None) -> Archive:
    """The archive that ``torch.load`` reads ``saved`` from. Whatever a value raises while it is pickled passes through.

    Args:
        keeping: what the job keeps; of such tensors the archive has their places.
    """
    layout = _Layout(frozenset(), keeping)
    layout.take(saved)
    if layout.bases_of_parts & layout.whole:
        # A tensor and a part of it: the part then refers to the tensor's bytes, which are there anyway.
        layout = _Layout(frozenset(layout.whole), keeping)
        layout.take(saved)
    return Archive(layout.parts(), layout.size, layout.storages())


class _Layout:
    """The target of one ``torch.save``.

    Args:
        written_whole: addresses of storages of which no part needs a copy of its own.
    """

    def __init__(self, written_whole: frozenset[int], keeping: Keeping | None) -> None:
        self.size = 0
        self.whole: set[int] = set()
        self.bases_of_parts: set[int] = set()
        self._written_whole = written_whole
        self._keeping = keeping
        self._parts: list[_Part] = []
        self._copied = bytearray()
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._shown: dict[int, torch.Tensor] = {}
        self._stand_ins: dict[Hashable, torch.Tensor] = {}

    def take(self, saved: dict[str, Any]) -> None:
        token = _taking.set(self)
        try:
            with _without_checksums():
                torch.save(saved, cast("IO[bytes]", self), pickle_module=_Pickling)
        finally:
            _taking.reset(token)

    def parts(self) -> list[_Part]:
        return [*self._parts, memoryview(self._copied)]

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
            self._parts += [memoryview(self._copied), part]
            self._copied = bytearray()
        return len(view)

    def _in_place(self, view: memoryview) -> "_Part | None":
        """Where these bytes lie for longer than this call, None if nowhere."""
        address = int(np.frombuffer(view, np.uint8).ctypes.data)
        if address in self._shown:
            return self._shown[address]
        storage = self._storages.get(address)
        return view if storage is not None and len(view) == storage.nbytes() else None

    def flush(self) -> None:
        """Nothing waits here."""

    def reduce(self, value: Any) -> Any:
        """How ``value`` is pickled, where that is not as it would be."""
        if self._keeping is not None and isinstance(value, torch.Tensor):
            place = self._keeping.place(value)
            if place is not None:
                return place.__reduce__()
        if type(value) is not torch.Tensor or not _in_memory(value):
            return NotImplemented
        storage = value.untyped_storage()
        address = storage.data_ptr()
        self._storages[address] = storage  # held, so that nothing else comes to lie at its address
        if address in self._written_whole or storage.nbytes() <= value.numel() * value.element_size():
            self.whole.add(address)
            return NotImplemented
        self.bases_of_parts.add(address)
        return (
            self._stand_in(value).requires_grad_(value.requires_grad).__reduce_ex__(_PROTOCOL)  # type: ignore[no-untyped-call]
        )

    def _stand_in(self, part: torch.Tensor) -> torch.Tensor:
        """A tensor of its own, the same one for equal parts of one storage."""
        shown = part.detach()
        place = (shown.data_ptr(), shown.dtype, shown.shape, shown.stride(), shown.is_conj(), shown.is_neg())
        if place not in self._stand_ins:
            if shown.numel() * shown.element_size() > _SMALL_BYTES:
                stand_in = torch.empty(shown.shape, dtype=shown.dtype, device="cpu")
                self._shown[stand_in.data_ptr()] = shown
            else:
                stand_in = _plain(shown).clone()
            self._stand_ins[place] = stand_in
        return self._stand_ins[place].detach()


def _in_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def gathered(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's values in order of its indices, at most ``PIECE_BYTES`` at a time."""
    size = tensor.numel() * tensor.element_size()
    if size <= PIECE_BYTES:
        yield _bytes_of(tensor)
        return
    rows = max(1, len(tensor) * PIECE_BYTES // size)
    for part in tensor.split(rows):  # type: ignore[no-untyped-call]
        yield from gathered(part[0] if len(part) == 1 else part)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The values as they lie in memory, in order of their indices; a copy where they do not."""
    return tensor.resolve_conj().resolve_neg().contiguous()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    values = _plain(tensor)
    size = values.element_size()
    raw = torch.empty(0, dtype=torch.uint8, device="cpu").set_(
        values.untyped_storage(), values.storage_offset() * size, (values.numel() * size,), (1,)
    )
    return memoryview(raw.numpy())  # type: ignore[arg-type]  # numpy's own stubs


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
