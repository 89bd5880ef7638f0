"""Landlock: a process gives up all files but those it names, TCP, and signals to others, for good.

Source: Linux, ``Documentation/userspace-api/landlock.rst``. A rule names a path; everything below a folder is
included. Rights that the kernel's version does not know are left out: what that leaves open, seccomp closes.
"""

import contextlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from edif.walls import kernel

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_EXECUTE, _WRITE_FILE, _TRUNCATE, _IOCTL = 1 << 0, 1 << 1, 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_ALL_RIGHTS_BY_ABI = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
_READ = _READ_FILE | _READ_DIR
# In its own folder a process may do all but run programs and make devices.
_WRITE = ~(_EXECUTE | 1 << 6 | 1 << 11 | _IOCTL)
_TCP = 0b11  # bind, connect
_USE_DEVICE = _READ | _WRITE_FILE | _IOCTL
_SCOPED = 0b11  # abstract unix sockets, signals
_PATH_BENEATH = 1
# What later versions look after as well, by the first that does. Before it, seccomp alone refuses it.
LATER = {3: "truncation", 4: "TCP", 5: "device ioctls", 6: "signals, abstract sockets"}


def abi() -> int:
    """The kernel's Landlock version; 0 where it has none."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def restrict(readable: Iterable[Path], writable: Iterable[Path], devices: Iterable[Path] = ()) -> None:
    """Leave this thread, and all that it starts, these paths only. Needs ``no_new_privs``.

    Args:
        devices: device files that it may read, write and control.

    Paths that do not exist are passed over.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = abi()
    handled = _ALL_RIGHTS_BY_ABI[min(version, len(_ALL_RIGHTS_BY_ABI) - 1)]
    attributes = struct.pack("Q", handled)
    if version >= 4:
        attributes += struct.pack("Q", _TCP)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPED)
    ruleset = kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, _WRITE & handled)
        for path in devices:
            _allow(ruleset, path, _USE_DEVICE & handled)
        kernel.syscall(kernel.LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not path.is_dir():
                rights &= _ON_FILES
            rule = struct.pack("=Qi", rights, fd)
            kernel.syscall(kernel.LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(fd)
