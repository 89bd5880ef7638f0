"""What the kernel says of a process's memory."""

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from edif.walls.memory import Memory, memory_of

MB = 1_000_000


_PEAKS = """
import os
from edif.walls.memory import memory_of, reset_peak
MB = 1_000_000
held = bytearray(os.urandom(1)) * 80 * MB
assert memory_of().most_own > 80 * MB
del held
reset_peak()
low = memory_of()
held = bytearray(os.urandom(1)) * 80 * MB
assert 60 * MB < memory_of().most_own - low.own < 120 * MB
del held
assert memory_of().most_own - memory_of().own > 60 * MB
"""


def test_the_peak_counts_anew_from_its_reset() -> None:
    # In a process that does nothing else: this one may give memory back that other tests have used.
    subprocess.run([sys.executable, "-c", _PEAKS], check=True)


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


@pytest.mark.parametrize("name", [b"x kB", b"a\rkB", b"VmHWM:\t9 kB"])
def test_the_name_that_a_process_gave_itself_is_not_read(name: bytes) -> None:
    ready, named = os.pipe()
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
        os.write(named, b"x")
        os.read(hold, 1)
        os._exit(0)
    os.read(ready, 1)
    seen = memory_of(pid)
    os.write(release, b"x")
    os.waitpid(pid, 0)
    for fd in (ready, named, hold, release):
        os.close(fd)
    assert 0 < seen.own <= seen.most_own
    assert seen.most_own > 20 * MB
