"""Huge pages change where bytes lie, and no byte."""

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from edif.executor.huge_pages import HUGE_PAGE, collapse_heap
from edif.executor.own_memory import pages_here
from edif.worker.environment import ADDED


def test_collapsing_keeps_every_byte_and_forks_keep_theirs() -> None:
    data = bytes(os.urandom(1024)) * 6000  # some huge pages' worth, in one piece
    copy = bytearray(data)
    collapse_heap()
    assert copy == data
    pid = os.fork()
    if pid == 0:
        copy[5] ^= 1  # in a huge page that both have
        os._exit(0 if copy[:5] == data[:5] and copy[6:] == data[6:] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert copy == data


def test_what_is_hardly_used_stays_on_small_pages() -> None:
    full, sparse = (
        mmap.mmap(-1, 4 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)
    )
    full.write(os.urandom(len(full)))
    for page in range(0, len(sparse), HUGE_PAGE // 8):
        sparse[page] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(sparse))
    whole = range(-(-address // HUGE_PAGE) * HUGE_PAGE, address + len(sparse) - HUGE_PAGE, HUGE_PAGE)
    before = [int(pages_here(each, HUGE_PAGE).sum()) for each in whole]
    collapse_heap()
    assert [int(pages_here(each, HUGE_PAGE).sum()) for each in whole] == before
    assert max(before) <= 8


@pytest.mark.parametrize("taken", [0, 8 * 2**20], ids=["nothing was taken", "heap was taken"])
def test_heap_that_was_taken_is_there_for_the_next_allocation(taken: int) -> None:
    """In a process with the allocator's settings that replicas have."""
    script = (
        "import resource, torch\n"
        "from edif.executor.huge_pages import take_heap\n"
        f"take_heap({taken})\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "torch.zeros(1_000_000)\n"  # a thousand pages
        "print(faults() - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=ADDED, capture_output=True, text=True, check=True
    )
    assert (int(ran.stdout) < 100) is (taken > 0), ran.stdout
