"""Which walls this host can build: each is tried, in a process that then ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from edif.walls import kernel, landlock
from edif.walls.cell import own_file_system, own_namespaces
from edif.walls.seccomp import CannotFilter, Filter


@dataclass(frozen=True, slots=True)
class Wall:
    """One kind of wall. Without a ``required`` one, this host runs no sealed jobs."""

    name: str
    stands: bool
    required: bool
    found: str
    advice: str = ""


def survey() -> list[Wall]:
    """Every wall, and whether it can be built here. Only for a process of one thread, for it forks."""
    return [_landlock(), _seccomp(), _namespaces()]


def survey_apart() -> list[Wall]:
    """:func:`survey` in a process of its own. Blocks for a moment."""
    command = [sys.executable, "-m", "edif.walls"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)  # noqa: S603 - our own
    return [Wall(**wall) for wall in json.loads(done.stdout)]


def _landlock() -> Wall:
    version = landlock.abi()
    advice = "Boot a kernel from 5.13 on with `landlock` in its list of security modules (lsm=)."
    found = f"version {version}" if version else "none"
    if version and (lacks := [what for since, what in landlock.LATER.items() if since > version]):
        found += f"; left to seccomp: {', '.join(lacks)}"
    return Wall("landlock", version > 0, True, found, advice)


def _seccomp() -> Wall:
    try:
        calls = Filter()
    except CannotFilter as error:
        return Wall(
            "seccomp", False, True, str(error), "Install libseccomp (Debian: apt install libseccomp2)."
        )

    def close() -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        calls.load()

    return Wall("seccomp", _works(close), True, "libseccomp", "The kernel needs CONFIG_SECCOMP_FILTER.")


def _namespaces() -> Wall:
    def close() -> None:
        own_namespaces()
        own_file_system("/", 1)

    stands = _works(close)
    advice = (
        "Allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        "kernel.apparmor_restrict_unprivileged_userns=0). Without them jobs have no folder to write to."
    )
    return Wall("namespaces", stands, False, "user, mount and network" if stands else "forbidden", advice)


def _works(build: Callable[[], object]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            build()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
