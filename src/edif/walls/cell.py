"""A cell: what is left to a process that runs a stranger's code, and how it is closed in.

Called in the process itself, after it has everything that it needs and before it reads a byte of the
stranger's. Nothing here can be undone from inside.
"""

import contextlib
import os
import resource
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import edif
from edif.walls import kernel, landlock
from edif.walls.seccomp import Filter

_OPEN_FILES = 256
_THREADS = 512
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime"),
    *(
        "/usr/share/zoneinfo",
        "/proc/self",
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/stat",
        "/sys/devices/system/cpu",
    ),
    *("/dev/zero", "/dev/urandom", "/dev/random"),
)
_NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one job's process may use.

    Attributes:
        readable: folders and files beside the Python environment and the system's libraries: the model's.
        scratch: an empty folder. Where namespaces are to be had, a file system of the job's own is mounted on it.
        scratch_bytes: how much that holds.
        memory_bytes: address space beyond what the process has when it is closed in.
        file_bytes: size of the largest file that it may write, the result included.
        cpu_s: processor time of all its threads together.
    """

    readable: tuple[Path, ...]
    scratch: Path
    scratch_bytes: int
    memory_bytes: int
    file_bytes: int
    cpu_s: int


def close_in(cell: Cell, calls: Filter, keep: tuple[int, ...]) -> None:
    """Leave this process nothing but the cell and the descriptors ``keep``. It must have one thread.

    Raises:
        OSError: a wall that must stand cannot be built; the process must not go on.
    """
    _close_descriptors(keep)
    os.environ.clear()  # noqa: TID251 - the environment is taken away, not read
    os.environ.update({"HOME": str(cell.scratch), "TMPDIR": str(cell.scratch), "LANG": "C.UTF-8"})  # noqa: TID251
    os.umask(0o077)
    _limit(cell)
    with contextlib.suppress(OSError):  # a host may forbid them: the other walls do not need them
        _own_namespaces(cell)
    os.chdir(cell.scratch)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody of the same account may look in, and no core is written
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    landlock.restrict((*_environment(), *cell.readable), (cell.scratch, Path("/dev/null")))
    calls.load()


def _close_descriptors(keep: tuple[int, ...]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        if standard not in keep:
            os.dup2(null, standard)
    low = 3
    for fd in sorted({*keep} - {0, 1, 2}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _own_namespaces(cell: Cell) -> None:
    """No network devices, no other's shared memory, and a scratch file system of limited size."""
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_NAMESPACES)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    # Counted within the namespace just made; outside it would count everything of this account.
    resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
    kernel.mount("tmpfs", str(cell.scratch), flags, f"size={cell.scratch_bytes},nr_inodes=10000,mode=0700")


def _limit(cell: Cell) -> None:
    limits = {
        resource.RLIMIT_AS: _address_space() + cell.memory_bytes,
        resource.RLIMIT_FSIZE: cell.file_bytes,
        resource.RLIMIT_CPU: cell.cpu_s,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in limits.items():
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _environment() -> tuple[Path, ...]:
    """Where Python, its packages and the system's libraries lie."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(edif.__file__).parent)}
    return tuple(Path(path) for path in (*sorted(paths), *_SYSTEM))
