"""Parts of an archive: bytes that are there already, and tensors whose values are gathered, and rounded, in pieces when they are wanted."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from edif.core.limits import MIB

PIECE_BYTES = 4 * MIB


class Piece(NamedTuple):
    """
    Attributes:
        view: at most ``PIECE_BYTES``; good for as long as it is held and the tensors do not change.
        width: of the elements that it consists of, in bytes; 1 where nothing is known of them.
    """

    view: memoryview
    width: int


class Part(NamedTuple):
    """
    Attributes:
        content: the bytes, or a tensor that is written in order of its indices.
        dtype: what the values are, as they are written; None for what is no tensor's.
    """

    content: memoryview | torch.Tensor
    dtype: torch.dtype | None = None

    @property
    def size(self) -> int:
        """As it is written, in bytes."""
        if isinstance(self.content, torch.Tensor):
            return self.content.numel() * _dtype(self).itemsize
        return len(self.content)

    @property
    def width(self) -> int:
        if self.dtype is None:
            return 1
        return self.dtype.itemsize // 2 if self.dtype.is_complex else self.dtype.itemsize

    def pieces(self) -> Iterator[Piece]:
        """All of it, in order."""
        if isinstance(self.content, torch.Tensor):
            for view in gathered(self.content, _dtype(self)):
                yield Piece(view, self.width)
        else:
            for start in range(0, len(self.content), PIECE_BYTES):
                yield Piece(self.content[start : start + PIECE_BYTES], self.width)

    def sample(self, at: int, length: int) -> bytes:
        """Some ``length`` bytes that begin near ``at``, whole elements."""
        content = self.content
        if isinstance(content, torch.Tensor):
            beginning = next(gathered(content[len(content) * at // self.size :], _dtype(self)))
            return bytes(beginning[:length])
        at -= at % self.width
        return bytes(content[at : at + length])


def _dtype(part: Part) -> torch.dtype:
    assert part.dtype is not None
    return part.dtype


def gathered(tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    """The tensor's values in order of its indices, as ``dtype``, at most ``PIECE_BYTES`` at a time."""
    size = tensor.numel() * dtype.itemsize
    if size <= PIECE_BYTES:
        yield _bytes_of(plain(tensor, dtype))
        return
    rows = max(1, len(tensor) * PIECE_BYTES // size)
    for part in tensor.split(rows):  # type: ignore[no-untyped-call]
        yield from gathered(part[0] if len(part) == 1 else part, dtype)


def plain(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values as they lie in memory, in order of their indices; a copy where they do not, or are of another dtype, or on a device."""
    return tensor.resolve_conj().resolve_neg().to(dtype).contiguous().cpu()


def _bytes_of(values: torch.Tensor) -> memoryview:
    size = values.element_size()
    raw = torch.empty(0, dtype=torch.uint8, device="cpu").set_(
        values.untyped_storage(), values.storage_offset() * size, (values.numel() * size,), (1,)
    )
    return memoryview(raw.numpy())  # type: ignore[arg-type]  # numpy's own stubs
