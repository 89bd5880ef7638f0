"""What the kernel says of a process's memory."""

import contextlib
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

_FIELD = re.compile(rb"^(RssAnon|RssFile|RssShmem|VmHWM|VmPeak):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, of one moment.

    Attributes:
        own: resident pages of no file: those that a fork still shares with its parent count, the weights do not.
        most_own: about the largest ``own`` since the process began or its peak was last reset: the largest resident set,
            less what it shares now.
        most_reserved: the largest address space so far.
    """

    own: int = 0
    most_own: int = 0
    most_reserved: int = 0


def memory_of(pid: int | str = "self") -> Memory:
    """All zero if there is no such process, or not any more."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return Memory()
    # Exactly these lines: another one is the process's name, which its job may choose.
    size = {name: int(number) * 1024 for name, number in _FIELD.findall(status)}
    shared = size.get(b"RssFile", 0) + size.get(b"RssShmem", 0)
    return Memory(
        own=size.get(b"RssAnon", 0),
        most_own=max(size.get(b"VmHWM", 0) - shared, 0),
        most_reserved=size.get(b"VmPeak", 0),
    )


def reset_peak() -> None:
    """Let this process's ``most_own`` count anew, where the kernel allows it."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(fd, b"5")
        finally:
            os.close(fd)


def reserved_beyond(limit_bytes: int) -> int | None:
    """The most address space that this process had of the ``limit_bytes`` that it was given on top of what it had.

    None where it may not look: the kernel can forget that a closed-in process may read of itself.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    reserved = memory_of().most_reserved
    return max(reserved - (most - limit_bytes), 0) if reserved else None
