"""Memory in pages of 2 MiB, asked for by name: few hosts hand them out unasked.

A process that holds a model forks for every sealed job. With small pages the fork copies one table entry for each
4 KiB of its memory, and the job pays for one page fault for each that it reads; both shrink by 512. Where the kernel does not have
them (before Linux 6.1) or has none left, everything works as it did, on small ones.
"""

import ctypes
import mmap
import os

import torch

from edif.executor.own_memory import PAGE, pages_here, writable_mappings

HUGE_PAGE = 2 * 1024 * 1024
_DENSE = 0.5
"""So much of a huge page's memory must be in use."""

# Linux, include/uapi/asm-generic/mman-common.h; Python's mmap has no fixed addresses, and keeps a descriptor.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_WRITE = 23
_MADV_COLLAPSE = 25
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
]
_libc.malloc_trim.argtypes = [ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def collapse(address: int) -> None:
    """Make one huge page of the :data:`HUGE_PAGE` bytes from this aligned address on, if that can be had."""
    _libc.madvise(address, HUGE_PAGE, _MADV_COLLAPSE)


def trim_heap() -> None:
    """Give back what this process has freed: on a huge page a fork would have to copy it to use it, which takes longer than to be given an
    empty page. After passes of a batch that is some ten MB.
    """
    _libc.malloc_trim(0)


def collapse_heap() -> None:
    """Put what this process has allocated so far on huge pages. Takes about 0.7 s for 300 MB."""
    for start, end, name, of_file in writable_mappings():
        if not of_file and name in ("", "[heap]"):
            first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            for address in range(first, last, HUGE_PAGE):
                if _is_dense(address):
                    collapse(address)


def _is_dense(address: int) -> bool:
    """Whether these bytes are in use for the most part; also where the kernel does not tell."""
    try:
        return float(pages_here(address, HUGE_PAGE).mean()) >= _DENSE
    except OSError:
        return True


def take_heap(size_bytes: int) -> None:
    """Have this process own so much free memory that its next allocations meet pages that are there."""
    block = torch.empty(size_bytes, dtype=torch.uint8)
    first = -(-block.data_ptr() // PAGE) * PAGE
    last = (block.data_ptr() + size_bytes) // PAGE * PAGE
    if last > first:
        populate(first, last - first)


def populate(address: int, length: int) -> None:
    """Have these whole pages be this process's own now, instead of one by one when they are written to (Linux 5.14)."""
    _libc.madvise(address, length, _MADV_POPULATE_WRITE)


def map_aligned(fd: int, length: int) -> int:
    """The address of a private mapping of a file that huge pages fit: the kernel does not align this kind by itself.

    Raises:
        OSError: there is no room for it.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    room = _mmap(0, length + HUGE_PAGE, _PROT_NONE, flags, -1)
    address = -(-room // HUGE_PAGE) * HUGE_PAGE
    return _mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, fd)


def _mmap(address: int, length: int, protection: int, flags: int, fd: int) -> int:
    found: int | None = _libc.mmap(address, length, protection, flags, fd, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
