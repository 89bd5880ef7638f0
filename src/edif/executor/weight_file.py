"""Memory that is written once, then mapped copy-on-write by this process and its forks.

It lies on huge pages where the kernel has them (Linux 6.1): a fork then touches a gigabyte of weights at the price of
five hundred page faults instead of 16,000 with their cleaning up, which a job of a few ms would feel.
"""

import ctypes
import fcntl
import mmap
import os

import torch

PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 * 1024 * 1024
_READ_ONLY = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

# Linux, include/uapi/asm-generic/mman-common.h; Python's mmap has no fixed addresses, and keeps a descriptor.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MADV_COLLAPSE = 25
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


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
            self._address = _map_aligned(self._fd, length)
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
            _libc.madvise(self._address + self._huge_until, HUGE_PAGE, _MADV_COLLAPSE)  # else they stay small
            self._huge_until += HUGE_PAGE

    def seal(self) -> None:
        """From now on nobody can change the file; the mapping is still writable, page by page, for this process alone."""
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _READ_ONLY)
        os.close(self._fd)


def _map_aligned(fd: int, length: int) -> int:
    """The address of a private mapping that huge pages fit: the kernel aligns some by itself, not this kind."""
    room = _mmap(
        0, length + HUGE_PAGE, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1
    )
    address = -(-room // HUGE_PAGE) * HUGE_PAGE
    return _mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, fd)


def _mmap(address: int, length: int, protection: int, flags: int, fd: int) -> int:
    found: int | None = _libc.mmap(address, length, protection, flags, fd, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
