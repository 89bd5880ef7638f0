"""Memory that is written once, then mapped copy-on-write by this process and its forks, on huge pages if it can be."""

import ctypes
import fcntl
import os

import torch

from edif.executor.huge_pages import HUGE_PAGE, collapse, map_aligned

_READ_ONLY = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class WeightFile:
    """A memory file of ``size_bytes`` zeros, and the private mapping of it, which is never unmapped.

    Attributes:
        bytes: the mapping, uint8 of at least ``size_bytes``; whole huge pages.
    """

    def __init__(self, size_bytes: int) -> None:
        length = -(-size_bytes // HUGE_PAGE) * HUGE_PAGE
        self._fd = os.memfd_create("edif-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, length)
            self._address = map_aligned(self._fd, length)
        except BaseException:
            os.close(self._fd)
            raise
        self.bytes = torch.frombuffer(
            (ctypes.c_ubyte * length).from_address(self._address), dtype=torch.uint8
        )
        self._huge_until = 0

    def write(self, start: int, data: torch.Tensor) -> None:
        """Write contiguous uint8 ``data`` at ``start``; each write begins where an earlier one ended, or behind it."""
        left = data.numpy().data
        self._take_huge_pages(start + len(left))
        while left:
            written = os.pwrite(self._fd, left, start)
            left, start = left[written:], start + written

    def _take_huge_pages(self, end: int) -> None:
        # Just before they are written: an empty page is made huge without copying, and the old weights are not
        # held twice.
        while self._huge_until < end:
            int(self.bytes[self._huge_until])  # the kernel only joins what has a page
            collapse(self._address + self._huge_until)
            self._huge_until += HUGE_PAGE

    def seal(self) -> None:
        """From now on nobody can change the file; the mapping is still writable, page by page, for this process alone."""
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _READ_ONLY)
        os.close(self._fd)
