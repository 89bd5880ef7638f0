"""The few system calls that Python has no names for. Each raises :class:`OSError` as Python's own do."""

import ctypes
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_with_python = ctypes.PyDLL(None, use_errno=True)
"""Its functions are called without letting go of the interpreter's lock."""

# The numbers of the Landlock calls are the same on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22
SECCOMP_MODE_FILTER = 2

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_VM, CLONE_VFORK = 0x00000100, 0x00004000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000

_CAPABILITY_VERSION_3 = 0x20080522


def syscall(number: int, *arguments: object) -> int:
    """A raw system call; pointers are ctypes objects or bytes."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    return _checked(result)


def prctl(option: int, *values: object) -> int:
    filled = [*values, *(ctypes.c_ulong(0) for _ in range(4 - len(values)))]
    return _checked(_libc.prctl(ctypes.c_int(option), *filled))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    source = kind.encode() or None
    _checked(_libc.mount(source, target.encode(), source, ctypes.c_ulong(flags), options.encode() or None))


def write(switch: str, value: bytes) -> None:
    """Set one of the kernel's switches that look like files."""
    fd = os.open(switch, os.O_WRONLY)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def start_one_that_ends() -> None:
    """Start a process that ends at once. It borrows this one's memory, so that a fork of gigabytes is not needed.

    Raises:
        BlockingIOError: the account may start no more.
    """
    stack = ctypes.create_string_buffer(4096)
    flags = CLONE_VM | CLONE_VFORK | signal.SIGCHLD
    os.waitpid(_checked(_libc.clone(_libc._exit, ctypes.byref(stack, len(stack)), flags, None)), 0)  # noqa: SLF001


def drop_capabilities() -> None:
    """Give up every capability that this thread has; no way leads back without a new program."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)))


class WithoutRights:
    """Within the context the thread has no capability in effect: what it opens, it opens as an ordinary account would.

    Made in a process that has the same capabilities, before or in it.
    """

    def __init__(self) -> None:
        self._header, rights = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
        _checked(_libc.capget(self._header, rights))
        halves = struct.unpack("6I", rights.raw)  # each: effective, permitted, inheritable
        self._all = rights.raw
        self._none = struct.pack("6I", 0, *halves[1:3], 0, *halves[4:6])

    def __enter__(self) -> None:
        _checked(_libc.capset(self._header, self._none))

    def __exit__(self, *_: object) -> None:
        _checked(_libc.capset(self._header, self._all))


def fork() -> int:
    """Fork a process of one thread that holds no lock.

    Python's own fork then has all libraries mend what other threads could have left behind: 400 pages that the kernel copies, and
    1.5 ms of the child. Here there is nothing to mend; but random numbers go on as in the parent until they are seeded.

    Raises:
        OSError: too many processes, or no memory.
    """
    return _checked(_with_python.fork())


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
