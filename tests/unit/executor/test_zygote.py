"""A zygote whose agent leaves it, and one that cannot fork."""

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from edif.executor.zygote import _Zygote
from edif.wire import pipe
from edif.wire.link import CellLimits, ModelSpec

END_S = 60


@pytest.mark.parametrize("told", [True, False], ids=["while it loads", "before it is told what to load"])
def test_it_ends_quietly(told: bool) -> None:
    ours, theirs = pipe.pair()
    with ours, theirs:
        if told:
            pipe.send(ours, pipe.Load(ModelSpec("m/one", "/nowhere"), None))
        ours.close()
        ended = subprocess.run(
            [sys.executable, "-m", "edif.executor", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=END_S,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, "")


class _NoWalls:
    def sealed_fork(self, *_: Any) -> Any:
        raise OSError(errno.ENOSYS, "no such wall here")


def test_a_sealed_fork_whose_walls_cannot_be_built_counts_as_made_and_dead() -> None:
    """And leaves nothing open: the zygote goes on."""
    ours, theirs = pipe.pair()
    with ours, theirs:
        fds = [os.dup(0), os.dup(0)]
        cell = CellLimits(memory_bytes=1, scratch_bytes=1, file_bytes=1, cpu_s=1)
        request = pipe.ForkRunner(cell=cell, scratch="/nowhere")
        _Zygote(theirs, _NoWalls(), None)._fork(fds, request)  # type: ignore[arg-type]
        assert pipe.receive(ours, pipe.from_zygote)[0] == pipe.Forked(-1)
        ended = pipe.receive(ours, pipe.from_zygote)[0]
        assert isinstance(ended, pipe.ChildExited)
        assert ended.pid == -1
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
