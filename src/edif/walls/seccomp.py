"""The system calls that user code may make, as a filter that the kernel runs before each.

An allow-list: what is not named here fails with EPERM, also what later kernels invent. ``libseccomp`` knows
the numbers of every architecture and writes the filter's program; a process loads it with one ``prctl``.
"""

import ctypes
import ctypes.util
import os
import struct
from typing import Any

from edif.walls import kernel, nvidia

_LIBRARY = "libseccomp.so.2"
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NOT_EQUAL, _EQUAL, _MASKED_EQUAL = 1, 4, 7
_CLONE_THREAD, _CLONE_FILES = 0x00010000, 0x00000400
_CLOSE_RANGE_UNSHARE = 2
_AF_UNIX, _TYPE_MASK = 1, 0xF
_PAIRS = (1, 5)  # SOCK_STREAM, SOCK_SEQPACKET: a datagram pair could send to any path
_IOCTLS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
# Descriptors, their flags, locks. Not whom to signal, and no leases, for which others who open the file must wait.
_FCNTLS = (*range(8), *range(12, 15), *range(36, 39), 1030)
_F_ADD_SEALS = 1033
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_OWN_ID = 0x7E57_ED1F
"""Stands for the process's own id in the program until that is known; no process has it."""

_FILES = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close
    open openat creat dup dup2 dup3 flock fsync fdatasync sync_file_range ftruncate fallocate
    stat fstat lstat newfstatat fstatat64 statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents getdents64
    getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
    umask copy_file_range sendfile sendfile64 fadvise64 readahead
"""
_MEMORY = "mmap mmap2 munmap mremap mprotect madvise msync mincore brk membarrier get_mempolicy"
_THREADS = """
    futex futex_waitv set_robust_list get_robust_list set_tid_address gettid rseq sched_yield sched_getaffinity
    sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getcpu exit exit_group
"""
_WAITING = """
    select _newselect pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 pipe pipe2
    eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime nanosleep clock_nanosleep pause alarm
    setitimer getitimer wait4 waitid restart_syscall
"""
_SIGNALS = "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigpending rt_sigtimedwait sigaltstack sigreturn signalfd4 kill tgkill"
# On the one socket that the process was given; it cannot make another that leads outside.
_MESSAGES = "sendmsg recvmsg sendto recvfrom shutdown getsockopt getsockname getpeername"
_QUESTIONS = """
    getpid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups uname sysinfo times
    getrusage getrlimit getrandom gettimeofday time clock_gettime clock_gettime64 clock_getres getpriority capget arch_prctl
"""
ALLOWED = tuple(f"{_FILES} {_MEMORY} {_THREADS} {_WAITING} {_SIGNALS} {_MESSAGES} {_QUESTIONS}".split())


class CannotFilter(Exception):
    """The filter cannot be made on this host; the text says why."""


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _ForKernel(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class _Program:
    """Instructions of eight bytes each, of which the last four are a number to compare with."""

    def __init__(self, instructions: bytes) -> None:
        self._instructions = ctypes.create_string_buffer(instructions, len(instructions))
        place = ctypes.cast(self._instructions, ctypes.c_void_p)
        self._for_kernel = ctypes.byref(_ForKernel(len(instructions) // 8, place))

    def places_of(self, number: int) -> list[int]:
        """Where it is compared with."""
        numbers = struct.unpack(f"={len(self._instructions) // 4}I", self._instructions)[1::2]
        return [index * 8 + 4 for index, each in enumerate(numbers) if each == number]

    def put(self, number: int, places: list[int]) -> None:
        for place in places:
            struct.pack_into("=I", self._instructions, place, number)

    def load(self) -> None:
        kernel.prctl(kernel.PR_SET_SECCOMP, ctypes.c_ulong(kernel.SECCOMP_MODE_FILTER), self._for_kernel)


class Filter:
    """A program for the kernel; made once, loaded by each process that is closed in.

    Args:
        memory_files: whether the process may make memory files and seal their size; who runs a stranger's code may not.
        cards: whether it may say to NVIDIA's driver what its libraries do. Which device files it can open is not for a filter to say.

    Raises:
        CannotFilter: there is no libseccomp on this host.
    """

    def __init__(self, *, memory_files: bool = False, cards: bool = False) -> None:
        self._library = _open_library()
        context = self._library.seccomp_init(_ERRNO | _EPERM)
        if not context:
            raise CannotFilter("libseccomp cannot make a filter here.")
        try:
            for name in (*ALLOWED, *(("memfd_create",) if memory_files else ())):
                self._rule(context, _ALLOW, name)
            # Threads, but no processes. glibc falls back to `clone`, whose flags can be looked at. And one table of
            # descriptors for all of them: its limit counts for each table.
            thread = _CLONE_THREAD | _CLONE_FILES
            self._rule(context, _ALLOW, "clone", _Compare(0, _MASKED_EQUAL, thread, thread))
            self._rule(context, _ERRNO | _ENOSYS, "clone3")
            self._rule(context, _ALLOW, "close_range", _Compare(2, _MASKED_EQUAL, _CLOSE_RANGE_UNSHARE, 0))
            for call in ("prlimit64", "sched_setaffinity"):  # of this thread, not of others
                self._rule(context, _ALLOW, call, _Compare(0, _EQUAL, 0, 0))
            for kind in _PAIRS:
                unix, masked = _Compare(0, _EQUAL, _AF_UNIX, 0), _Compare(1, _MASKED_EQUAL, _TYPE_MASK, kind)
                self._rule(context, _ALLOW, "socketpair", unix, masked)
            for request in _IOCTLS:
                self._rule(context, _ALLOW, "ioctl", _Compare(1, _EQUAL, request, 0))
            for mask, request in nvidia.REQUESTS if cards else ():
                self._rule(context, _ALLOW, "ioctl", _Compare(1, _MASKED_EQUAL, mask, request))
            for command in (*_FCNTLS, *((_F_ADD_SEALS,) if memory_files else ())):
                for call in ("fcntl", "fcntl64"):
                    self._rule(context, _ALLOW, call, _Compare(1, _EQUAL, command, 0))
            for option in (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA):
                self._rule(context, _ALLOW, "prctl", _Compare(0, _EQUAL, option, 0))
            self._allowed = _Program(self._export(context))
        finally:
            self._library.seccomp_release(context)
        self._excepted = _Program(self._exceptions())
        self._own_ids = self._excepted.places_of(_OWN_ID)

    def load(self) -> None:
        """Put this thread, and all that it starts, under the filter. Needs ``no_new_privs``."""
        self._excepted.put(os.getpid(), self._own_ids)
        self._excepted.load()
        self._allowed.load()

    def _exceptions(self) -> bytes:
        """What is refused of the calls that are allowed; the kernel takes the stricter of two filters' answers.

        Signals to others: the process's own id is part of it. And what Landlock overlooks: files opened neither for
        reading nor for writing, and before its version 3 a file that is cut by being opened.

        The kernel reads half of most arguments, a filter all of them: what must *not* be said is compared by a mask,
        or by being anything else than what may be said.
        """
        context = self._library.seccomp_init(_ALLOW)
        try:
            for call, flags in (("open", 1), ("openat", 2)):
                neither = _Compare(flags, _MASKED_EQUAL, os.O_ACCMODE, os.O_ACCMODE)
                cut = _Compare(flags, _MASKED_EQUAL, os.O_ACCMODE | os.O_TRUNC, os.O_TRUNC)
                for way in (neither, cut):
                    self._rule(context, _ERRNO | _EPERM, call, way)
            for name in ("kill", "tgkill"):
                self._rule(context, _ERRNO | _EPERM, name, _Compare(0, _NOT_EQUAL, _OWN_ID, 0))
            return self._export(context)
        finally:
            self._library.seccomp_release(context)

    def _rule(self, context: Any, action: int, name: str, *compare: _Compare) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # not a call of this architecture
        array = (_Compare * len(compare))(*compare)
        result = self._library.seccomp_rule_add_array(context, action, number, len(compare), array)
        if result < 0:
            raise CannotFilter(f"libseccomp refuses the rule for {name}: {os.strerror(-result)}.")

    def _export(self, context: Any) -> bytes:
        fd = os.memfd_create("edif-filter")
        try:
            if (result := self._library.seccomp_export_bpf(context, fd)) < 0:
                raise CannotFilter(f"libseccomp cannot write the filter: {os.strerror(-result)}.")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)


def _open_library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError:
        raise CannotFilter("libseccomp is not installed.") from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Compare),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library
