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
from functools import cache
from pathlib import Path

import edif
from edif.walls import kernel, landlock
from edif.walls.seccomp import Filter

STATM = "/proc/self/statm"
_OPEN_FILES = 256
_PENDING_SIGNALS = 256
_THREADS = 512
_THREADS_BESIDE_OTHERS = 4096
_NOBODYS_UIDS = 0x70000000
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime"),
    *("/usr/share/zoneinfo", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu"),
    *("/dev/zero", "/dev/urandom", "/dev/random"),
)
# Not `net` and `mountinfo`, which without namespaces are the host's.
_OF_ITSELF = (
    *(
        f"/proc/self/{name}"
        for name in ("status", "stat", "statm", "maps", "smaps", "smaps_rollup", "limits")
    ),
    *(f"/proc/self/{name}" for name in ("fd", "cmdline", "comm", "cgroup")),
)
# Asked for here, once: it takes two milliseconds, and closing in is done in a fork for each job.
_PACKAGES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
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
        scratch: an empty folder. Where namespaces are to be had, a file system of the job's own is mounted on it;
            elsewhere it stays empty, for nothing would keep the job from filling the disk.
        scratch_bytes: how much that holds.
        memory_bytes: address space beyond what the process has when it is closed in. None: nothing is limited before :func:`limit_memory`
            is called, for the libraries of a device reserve more than anybody has.
        file_bytes: size of the largest file that it may write, the result included.
        cpu_s: processor time of all its threads together.
        devices: files of devices that it may use, and all that their libraries ask of them.
        variables: what of the environment it keeps.
    """

    readable: tuple[Path, ...]
    scratch: Path
    scratch_bytes: int
    memory_bytes: int | None
    file_bytes: int
    cpu_s: int
    devices: tuple[Path, ...] = ()
    variables: tuple[str, ...] = ()


class Closing:
    """Closing in, as far as it can be done in the parent: in a fresh fork the kernel copies whatever is touched first, which takes
    several times as long. Made for one process; the parent lets go of it with :meth:`close`.

    Args:
        calls: the filter.

    Raises:
        OSError: a wall that must stand cannot be built; the process must not be made.
    """

    def __init__(self, cell: Cell, calls: Filter) -> None:
        self._cell = cell
        self._calls = calls
        self._limits = _limits(cell)
        self._home = str(cell.scratch)
        self._paths = _readable(cell.readable)
        self._paths.let_use(cell.devices)

    def close(self) -> None:
        self._paths.close()

    def carry_out(self, keep: tuple[int, ...]) -> None:
        """Leave this process nothing but the cell and the descriptors ``keep``. It must have one thread.

        Raises:
            OSError: a wall that must stand cannot be built; the process must not go on.
        """
        _close_descriptors((*keep, self._paths.fd))
        _own_environment(self._home, self._cell.variables)
        os.umask(0o077)
        for kind, value in self._limits:
            resource.setrlimit(kind, (value, value))
        alone = _count_apart()
        writable: tuple[str, ...] = ()
        with contextlib.suppress(OSError):  # a host may forbid them: the other walls do not need them
            own_namespaces()
            alone = True
            own_file_system(self._home, self._cell.scratch_bytes)
            writable = (self._home,)
        _limit_threads(alone)
        os.chdir(self._home)
        self._paths.let_read((self._home,))
        _close_off(self._paths, writable, self._calls)


def close_in(cell: Cell, calls: Filter, keep: tuple[int, ...]) -> None:
    """:class:`Closing` of this very process."""
    Closing(cell, calls).carry_out(keep)


def close_off(readable: tuple[Path, ...], calls: Filter, keep: tuple[int, ...]) -> None:
    """The same walls, but no limits and no scratch folder, for a process that runs our code and listens to strangers'.

    Args:
        readable: as that of a cell.
        keep: the descriptors that it is left.

    Raises:
        OSError: a wall that must stand cannot be built; the process must not go on.
    """
    paths = _readable(readable)
    _close_descriptors((*keep, paths.fd))
    _own_environment("/nonexistent", ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        own_namespaces()
    os.chdir("/")
    _close_off(paths, (), calls)


def _readable(paths: tuple[Path, ...]) -> landlock.Ruleset:
    """What every process here is left to read, but for what is its own; and these."""
    rules = landlock.Ruleset()
    rules.let_read((*environment(), *paths))
    rules.let_write(("/dev/null",))
    return rules


def _own_environment(home: str, kept: tuple[str, ...]) -> None:
    environ = os.environ  # noqa: TID251 - the environment is taken away, not read; what is kept is a library's
    for name in tuple(environ):
        if name not in kept:
            del environ[name]
    environ["HOME"] = environ["TMPDIR"] = home
    environ["LANG"] = "C.UTF-8"


def _close_off(paths: landlock.Ruleset, writable: tuple[str, ...], calls: Filter) -> None:
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody of the same account may look in, and no core is written
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    paths.let_read(_OF_ITSELF)
    paths.let_write(writable)
    paths.restrict()
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


def own_namespaces() -> None:
    """No network devices, no other's shared memory, no mounts that others see.

    Raises:
        OSError: the host forbids them; those that were to be had stay.
    """
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(_NAMESPACES)
    kernel.write("/proc/self/setgroups", b"deny")
    kernel.write("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
    kernel.write("/proc/self/gid_map", b"%d %d 1" % (gid, gid))


def own_file_system(folder: str, size_bytes: int) -> None:
    """Put an empty file system of limited size on a folder. Only after :func:`own_namespaces`: nobody else sees it."""
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", folder, flags, f"size={size_bytes},nr_inodes=10000,mode=0700")


def _count_apart() -> bool:
    """Have root's threads counted, which the kernel does not do by itself; whether that could be done.

    It goes by the real user, so that becomes one whom nobody else is. What may be opened goes by the effective one,
    which stays.
    """
    if os.geteuid() != 0:
        return False
    try:
        os.setresuid(_NOBODYS_UIDS + int.from_bytes(os.urandom(3), "big"), -1, -1)
    except OSError:
        # The root of a container that knows no such user: counted as the account that it is outside.
        return False
    # A namespace holds all that root runs to the limit that it was made under.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True


def _limit_threads(alone: bool) -> None:
    """So many threads, where they are counted alone. Elsewhere they count with all that the account runs: then, at
    most half of what that may still start."""
    limit = _THREADS
    if not alone:
        most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        there = _tasks_of_account(most)
        room = _THREADS_BESIDE_OTHERS * 2 if most == resource.RLIM_INFINITY else most - there
        limit = there + min(room // 2, _THREADS_BESIDE_OTHERS)
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _tasks_of_account(most: int) -> int:
    """How many threads the account has, or up to a quarter more. Only the kernel knows: a container hides some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    tried = 64
    while most == resource.RLIM_INFINITY or tried < most:
        resource.setrlimit(resource.RLIMIT_NPROC, (tried, hard))
        try:
            kernel.start_one_that_ends()
        except BlockingIOError:
            tried += tried // 4
        else:
            return tried
    return most


def _limits(cell: Cell) -> list[tuple[int, int]]:
    limits = {
        resource.RLIMIT_FSIZE: cell.file_bytes,
        resource.RLIMIT_CPU: cell.cpu_s,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,  # counted for the whole account
    }
    if cell.memory_bytes is not None:
        limits[resource.RLIMIT_AS] = _address_space(STATM) + cell.memory_bytes
    return [(kind, _at_most(kind, value)) for kind, value in limits.items()]


def _at_most(kind: int, value: int) -> int:
    """As much of that as this process may still be given."""
    _, most = resource.getrlimit(kind)
    return value if most == resource.RLIM_INFINITY else min(value, most)


def limit_memory(memory_bytes: int, statm: str | int) -> None:
    """From now on this process may reserve so much address space beyond what it has.

    Args:
        statm: :data:`STATM`, or a descriptor of it, where it cannot be opened any more.
    """
    value = _at_most(resource.RLIMIT_AS, _address_space(statm) + memory_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (value, value))


def _address_space(statm: str | int) -> int:
    with open(statm, encoding="ascii") as file:  # noqa: PTH123 - it may be a descriptor
        return int(file.read().split()[0]) * resource.getpagesize()


@cache
def environment() -> tuple[Path, ...]:
    """Where Python, its packages and the system's libraries lie. Asked for once, in the parent of those that are closed in.

    Of a prefix, what an environment keeps there for its programs: people put other things beside it.
    """
    paths = {*_PACKAGES, str(Path(edif.__file__).parent)}
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        paths.update(f"{prefix}/{name}" for name in ("lib", "lib64", "share"))
    return tuple(Path(path) for path in (*sorted(paths), *_SYSTEM))
