"""What a trial job writes to is learned, and later forks own it before they need it."""

import ctypes
import mmap
import os
import resource
import time
from collections.abc import Callable

import pytest

from edif.executor import working_set
from edif.executor.own_memory import PAGE
from edif.executor.working_set import WorkingSet

PAGES = 2000
WRITTEN = range(500, 1500)


@pytest.fixture
def memory() -> mmap.mmap:
    """Some pages that this process has written to, so that a fork shares them.

    Small ones, and a mapping of their own: the allocator may hand out memory that huge pages were wanted for (numpy asks
    for them). There khugepaged, in the middle of a slow trial, makes one huge page of a fork's small ones, and then the
    fork also owns those of them that it has not written to.
    """
    pages = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    pages[:] = b"x" * len(pages)
    return pages


def _write(memory: mmap.mmap) -> None:
    for page in WRITTEN:
        memory[page * PAGE] = 1


def _faults_in_fork(work: Callable[[], None], before: Callable[[], None] = lambda: None) -> int:
    """How many page faults ``work`` meets in a fork, after ``before``."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        before()
        count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        work()
        count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - count
        os.write(write, str(count).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    told = os.read(read, 100)
    os.close(read)
    return int(told)


def test_what_the_trial_wrote_to_is_learned(memory: mmap.mmap) -> None:
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    learned = WorkingSet.learn(lambda: _write(memory))
    of_memory = sum(length for address, length in learned._runs if start <= address < start + len(memory))
    assert abs(of_memory - len(WRITTEN) * PAGE) <= 2 * PAGE
    assert memory[WRITTEN[0] * PAGE] == ord("x"), "the trial wrote to its own copy"


def test_a_fork_that_takes_them_writes_without_faults(memory: mmap.mmap) -> None:
    learned = WorkingSet.learn(lambda: _write(memory))
    assert _faults_in_fork(lambda: _write(memory)) >= len(WRITTEN) // 2
    assert _faults_in_fork(lambda: _write(memory), before=learned.take) < len(WRITTEN) // 10


def test_taking_them_changes_no_byte(memory: mmap.mmap) -> None:
    learned = WorkingSet.learn(lambda: _write(memory))
    pid = os.fork()
    if pid == 0:
        learned.take()
        os._exit(0 if memory[:] == b"x" * len(memory) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_trial_that_fails_teaches_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert WorkingSet.learn(lambda: 1 / 0 and None).size_bytes == 0
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_trial_that_hangs_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "_TRIAL_S", 0.2)
    assert WorkingSet.learn(lambda: time.sleep(600)).size_bytes == 0
