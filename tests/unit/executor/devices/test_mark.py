"""The sign that a job has begun in a fork."""

import os
from pathlib import Path

import pytest

from edif.executor.devices.mark import Mark


@pytest.mark.parametrize("times", [0, 1, 3])
def test_whether_it_was_set_is_known_after_the_forks_death(times: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    mark = Mark()
    pid = os.fork()
    if pid == 0:
        mark.of_this_fork()
        for _ in range(times):
            mark.set()
        os._exit(0)
    mark.of_zygote()
    os.waitpid(pid, 0)
    assert mark.was_set() is (times > 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_where_there_was_no_fork_nothing_is_left() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    Mark().discard()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
