"""Memory that a result is written into, piece by piece, and that its tensors then use without a copy."""

import contextlib
import io
import mmap
import os
from typing import Any

import torch

from edif.core.limits import MIB

_LARGE = MIB  # below it a copy costs less than a mapping


class Memory:
    """Room for one result of this size.

    On Linux a large one is an anonymous file: it is filled through ``view``, and ``torch`` maps the same pages as the tensors'
    storage. Elsewhere the tensors are copied out of it.
    """

    def __init__(self, size: int) -> None:
        self._fd: int | None = None
        self._map: mmap.mmap | None = None
        if size >= _LARGE and hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("edif result")
            os.ftruncate(self._fd, size)
            self._map = mmap.mmap(self._fd, size)
            self.view = memoryview(self._map)
        else:
            self.view = memoryview(bytearray(size))

    def load(self) -> Any:
        """What ``torch.save`` wrote here. Only once: the memory is the tensors' from then on.

        Like nnsight's own client this unpickles what the fabric sends: connect to fabrics that you trust.
        """
        if self._map is None or self._fd is None:
            return torch.load(io.BufferedReader(_Reader(self.view)), map_location="cpu", weights_only=False)  # noqa: TID251 - a client's own result
        self._unmap()
        return torch.load(  # noqa: TID251 - a client's own result
            f"/proc/self/fd/{self._fd}", map_location="cpu", weights_only=False, mmap=True
        )

    def close(self) -> None:
        """Give back what the tensors do not hold."""
        self._unmap()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _unmap(self) -> None:
        # Parts that a failed download still refers to go when it is forgotten.
        with contextlib.suppress(BufferError):
            self.view.release()
            if self._map is not None:
                self._map.close()


class _Reader(io.RawIOBase):
    """A file over memory that is not copied into it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
