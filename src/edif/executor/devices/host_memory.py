"""A device whose memory is the host's: several processes map one memory file, writable for all, as they would map a card's memory.

It is for tests: what goes on between the processes is the same as with a card, on a machine that has none.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from edif.executor.devices.device import Shared


class _HostSpan:
    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size)

    def view(self, start: int, size: int) -> torch.Tensor:
        return torch.frombuffer(self._map, dtype=torch.uint8, offset=start, count=size)


class HostMemory:
    """See :class:`~edif.executor.devices.device.Device`."""

    files: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    variables: tuple[str, ...] = ()

    def begin(self) -> None:
        """It is always there."""

    def allocate(self, size: int) -> tuple[_HostSpan, Shared]:
        fd = os.memfd_create("edif-device", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return _HostSpan(fd, size), Shared(b"", (fd,))

    def open(self, handle: bytes, fds: Sequence[int], size: int) -> _HostSpan:
        return _HostSpan(fds[0], size)

    def finish(self) -> None:
        """What was begun is done."""
