"""``edif`` commands without the second of imports that each would begin with.

They are forked from a process that has imported what they need, and run what the installed command runs. That the
installed command starts is seen where a test starts one (``EDIF`` in ``fabric.py``).
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["edif.cli.main", "edif.launch.agent", "edif.launch.gateway", "edif.launch.serve"]
)


def run_forked(arguments: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``edif`` with these arguments in this environment, and nothing else of it."""
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _forks.Process(target=_run, args=(arguments, dict(environment), printed), daemon=True)
        process.start()
        process.join()
        assert process.exitcode is not None
        done = subprocess.CompletedProcess(
            arguments, process.exitcode, *(each.read_text() for each in printed)
        )
        process.close()
    return done


def _run(arguments: list[str], environment: dict[str, str], printed: list[Path]) -> None:
    from edif.cli.main import run

    for fd, file in enumerate(printed, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), fd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["edif", *arguments]
    run()
