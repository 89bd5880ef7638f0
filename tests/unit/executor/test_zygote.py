"""A zygote whose agent leaves it."""

import subprocess
import sys

import pytest

from edif.wire import pipe
from edif.wire.link import ModelSpec

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
