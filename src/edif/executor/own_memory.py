"""What the kernel says about this process's own memory: its mappings, and the state of each page."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

PAGE = mmap.PAGESIZE
PAGEMAP = "/proc/self/pagemap"
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]

# Linux, Documentation/admin-guide/mm/pagemap.
_PRESENT, _SWAPPED, _OF_FILE, _ALONE = (np.uint64(1 << bit) for bit in (63, 62, 61, 56))


class Mapping(NamedTuple):
    """
    Attributes:
        start: first address.
        end: the address behind the last.
        name: of its file, or the kernel's for it, as ``[heap]``; may be empty.
        of_file: whether a file lies behind it; memory files count.
    """

    start: int
    end: int
    name: str
    of_file: bool


def writable_mappings() -> Iterator[Mapping]:
    """Those that are private: what is written there is this process's own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p":
            start, end = (int(each, 16) for each in place.split("-"))
            yield Mapping(start, end, "".join(name), of_file=inode != "0")


def pages_changed(address: int, length: int, pagemap: int | None = None) -> int:
    """How many pages of a private file mapping this process has written to.

    Args:
        pagemap: a descriptor of :data:`PAGEMAP`, where it cannot be opened any more.

    Raises:
        OSError: this kernel or sandbox has no readable pagemap.
    """
    entries = _pagemap(address, length, pagemap)
    return int(np.count_nonzero(((entries & (_PRESENT | _SWAPPED)) != 0) & ((entries & _OF_FILE) == 0)))


def pages_here(address: int, length: int) -> Flags:
    """For each page, whether it is in memory.

    Raises:
        OSError: this kernel or sandbox has no readable pagemap.
    """
    here: Flags = (_pagemap(address, length) & _PRESENT) != 0
    return here


def pages_of_nobody_else(address: int, length: int) -> Flags:
    """For each page, whether it is here, of no file, and shared with no other process.

    Raises:
        OSError: this kernel or sandbox has no readable pagemap.
    """
    entries = _pagemap(address, length)
    alone: Flags = (entries & (_PRESENT | _OF_FILE | _ALONE)) == (_PRESENT | _ALONE)
    return alone


def _pagemap(
    address: int, length: int, opened: int | None = None
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    fd = os.open(PAGEMAP, os.O_RDONLY) if opened is None else opened
    try:
        data = os.pread(fd, length // PAGE * 8, address // PAGE * 8)
    finally:
        if opened is None:
            os.close(fd)
    if len(data) != length // PAGE * 8:
        raise OSError("pagemap ended early")
    return np.frombuffer(data, dtype=np.uint64)
