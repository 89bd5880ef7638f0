"""What the kernel says of a process's memory."""

import mmap
import os

from edif.walls.memory import Memory, memory_of, reset_peak

MB = 1_000_000


def test_the_peak_counts_anew_from_its_reset() -> None:
    held = bytearray(os.urandom(1)) * 80 * MB
    assert memory_of().most_own > 80 * MB
    del held
    reset_peak()
    low = memory_of()
    held = bytearray(os.urandom(1)) * 80 * MB
    assert 60 * MB < memory_of().most_own - low.own < 120 * MB
    del held
    assert memory_of().most_own - memory_of().own > 60 * MB


def test_what_is_shared_is_nobodys_own() -> None:
    before = memory_of()
    with mmap.mmap(-1, 80 * MB) as shared:  # shared with forks, as weights are
        shared.write(bytes(80 * MB))
        assert memory_of().own - before.own < 20 * MB


def test_of_no_process_there_is_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory_of(pid) == Memory()
