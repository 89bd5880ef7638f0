"""What several attacks need: system calls by name, the job's own socket to the agent, and its seat with the driver."""

import ctypes
import os
import platform
import socket
import sys

import msgspec

# The numbers of x86_64 and of the architectures that share one table; from 424 on all are the same.
_NUMBERS = {
    "x86_64": {
        "clone": 56, "execve": 59, "fcntl": 72, "semget": 64, "semctl": 66, "shmget": 29, "shmctl": 31, "ptrace": 101,
        "capget": 125, "capset": 126, "personality": 135, "pivot_root": 155, "mount": 165, "umount2": 166,
        "tkill": 200, "tgkill": 234, "mq_open": 240, "mq_unlink": 241, "rt_sigqueueinfo": 129, "add_key": 248,
        "keyctl": 250, "inotify_add_watch": 254, "openat": 257, "fchmodat": 268, "unshare": 272,
        "inotify_init1": 294, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "renameat2": 316, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    },
    "aarch64": {
        "clone": 220, "execve": 221, "fcntl": 25, "semget": 190, "semctl": 191, "shmget": 194, "shmctl": 195, "ptrace": 117,
        "capget": 90, "capset": 91, "personality": 92, "pivot_root": 41, "mount": 40, "umount2": 39,
        "tkill": 130, "tgkill": 131, "mq_open": 180, "mq_unlink": 181, "rt_sigqueueinfo": 138, "add_key": 217,
        "keyctl": 219, "inotify_add_watch": 27, "openat": 56, "fchmodat": 53, "unshare": 97,
        "inotify_init1": 26, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "renameat2": 276, "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282,
    },
}  # fmt: skip
_SAME_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "pidfd_open": 434,
    "clone3": 435, "close_range": 436, "pidfd_getfd": 438,
}  # fmt: skip


def span(address, length):
    """``struct iovec``; not as a structure, whose class does not travel with a job."""
    return (ctypes.c_size_t * 2)(address, length)


def syscall(name, *arguments):
    number = _SAME_EVERYWHERE.get(name) or _NUMBERS[platform.machine()][name]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def parent():
    """The job's own socket, by which its process talks to the agent."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            link = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if link.family == socket.AF_UNIX and link.type == socket.SOCK_SEQPACKET:
            return link
    raise FileNotFoundError("no packet socket")


def company():
    """What the process of a job whose traces can be merged knows of its seat; None elsewhere."""
    return getattr(sys.modules.get("edif.executor.merging.traces"), "_company", None)


def seat():
    """Where the job's process talks to the driver of shared passes. Where there is none, its own socket stands for it."""
    own = getattr(company(), "_sock", None)
    return parent() if own is None else own.dup()


def seat_memory():
    """The memory that it shares with the driver, from address to address; None if it shares none."""
    region = getattr(company(), "_region", None)
    if region is None:
        return None
    return region._bytes.data_ptr(), region._bytes.data_ptr() + region._bytes.numel()


def join(rows=1, tokens=6, ids=None, options=None, wants=(), watched=(), generates=False):
    """A request for a shared pass, as the driver hears it."""
    ids = bytes(8 * rows * tokens) if ids is None else ids
    return ["Join", generates, rows, tokens, ids, b"", b"", options or {}, [*wants], [*watched]]


def encode(message):
    return msgspec.msgpack.encode(message)


def say(link, message):
    link.send(encode(message))


class _Keeping:
    """When it arrives, the process begins to keep the descriptors of the memory that it shares with the driver."""

    def __reduce__(self):
        return exec, (
            "import os, sys\n"
            "sealed = sys.modules.get('edif.executor.merging.sealed')\n"
            "if sealed is not None:\n"
            "    class Kept(sealed.Region):\n"
            "        def __init__(self, fd, *rest):\n"
            "            sealed._kept = os.dup(fd)\n"
            "            super().__init__(fd, *rest)\n"
            "    sealed.Region = Kept\n",
        )


def keeping_memory(canary):
    """Travels with the attack in place of ``canary``."""
    return {**canary, "keeping": _Keeping()}


def kept_memory():
    """A descriptor of the memory that it shares with the driver; where it shares none, of a memory file of its own."""
    sealed = sys.modules.get("edif.executor.merging.sealed")
    kept = getattr(sealed, "_kept", None)
    if kept is None:
        kept = syscall("memfd_create", b"memory", 2)
        os.ftruncate(kept, 1 << 20)
    return kept
