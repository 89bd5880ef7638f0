"""Landlock: a process gives up all files but those it names, TCP, and signals to others, for good.

Source: Linux, ``Documentation/userspace-api/landlock.rst``. A rule names a path; everything below a folder is
included. Rights that the kernel's version does not know are left out: what that leaves open, seccomp closes.
"""

import os
import stat
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


class Ruleset:
    """The paths that a process is to be left. May be made in its parent, which hands it down and closes its own.

    Attributes:
        fd: its descriptor.

    Raises:
        OSError: the kernel has no Landlock.
    """

    def __init__(self) -> None:
        version = abi()
        self._handled = _ALL_RIGHTS_BY_ABI[min(version, len(_ALL_RIGHTS_BY_ABI) - 1)]
        attributes = struct.pack("Q", self._handled)
        if version >= 4:
            attributes += struct.pack("Q", _TCP)
        if version >= 6:
            attributes += struct.pack("Q", _SCOPED)
        self.fd = kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)

    def let_read(self, paths: Iterable[str | Path]) -> None:
        """Those that do not exist are passed over."""
        for path in paths:
            self._allow(path, _READ & self._handled)

    def let_write(self, paths: Iterable[str | Path]) -> None:
        """And read. Those that do not exist are passed over."""
        for path in paths:
            self._allow(path, _WRITE & self._handled)

    def let_use(self, devices: Iterable[str | Path]) -> None:
        """Device files that it may read, write and control."""
        for path in devices:
            self._allow(path, _USE_DEVICE & self._handled)

    def restrict(self) -> None:
        """Leave this thread, and all that it starts, these paths only. Needs ``no_new_privs``."""
        try:
            kernel.syscall(kernel.LANDLOCK_RESTRICT_SELF, self.fd, 0)
        finally:
            self.close()

    def close(self) -> None:
        os.close(self.fd)

    def _allow(self, path: str | Path, rights: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _ON_FILES
            rule = struct.pack("=Qi", rights, fd)
            kernel.syscall(kernel.LANDLOCK_ADD_RULE, self.fd, _PATH_BENEATH, rule, 0)
        finally:
            os.close(fd)
