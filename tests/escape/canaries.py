"""What is planted outside before an attack, and what became of it."""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

_PR_CAPBSET_DROP = 24
_libc = ctypes.CDLL(None)
_FS_IOC_GETFLAGS = 0x80086601
_ENV_START, _ENV_END = 49, 50
PROCESSES = ("zygote", "agent", "gateway", "driver")
SECRETS = ("worker.token", "operator.token", "link.key")


class Canaries:
    """The canaries of one attack; they live in the process that makes them, which must be outside the wall.

    Args:
        folder: an empty folder, in which the files are planted.
        name: the attack's.
        sizes: how far the bombs go.
        fabric: what of a running fabric is attacked; stand-ins are planted without one.
    """

    def __init__(self, folder: Path, name: str, sizes: dict[str, Any], fabric: dict[str, Any] | None) -> None:
        self._folder = folder
        self._sockets: dict[str, socket.socket] = {}
        self._secret = f"SECRET-{os.urandom(12).hex()}"
        self._mark = f"mark-{os.urandom(6).hex()}"
        self.done = f"done-21-{self._mark}"
        self._file = folder / "secret.txt"
        self._file.write_text(self._secret)
        self._file.chmod(0o600)
        self._process = self._start_process()
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)
        self._fifo_fd = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        addresses = self._open_sockets(folder)
        self._place = fabric or self._stand_ins(folder / "fabric")
        self._secrets = [self._secret, *self._place["secrets"]]
        self.told = {
            "name": name,
            "mark": self._mark,
            "done": self.done,
            "file": str(self._file),
            "folder": str(folder),
            "fifo": str(self._fifo),
            "process": self._process.pid,
            "open_fd": self._open_fd,
            "group": 65534,
            **self._where_secret_lies(),
            **addresses,
            **{key: value for key, value in self._place.items() if key != "secrets"},
            **sizes,
        }
        self._before = self._fingerprint()

    def _start_process(self) -> subprocess.Popen[bytes]:
        """A process with the secret in its memory, in its environment and in an open file."""
        self._open_fd = os.open(self._file, os.O_RDONLY)
        return subprocess.Popen(
            ["sleep", "600"],
            env={"PATH": os.defpath, "SECRET": self._secret},
            pass_fds=[self._open_fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_without_capabilities,
        )

    def _where_secret_lies(self) -> dict[str, int]:
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        low, high = (int(fields[index - 2]) for index in (_ENV_START, _ENV_END))
        return {"address": low, "length": high - low}

    def _open_sockets(self, folder: Path) -> dict[str, Any]:
        abstract = f"edif-escape-{self._mark}"
        kinds: dict[str, tuple[int, int, Any]] = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix_stream": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "stream")),
            "unix_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram")),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
            "abstract_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{abstract}-datagram"),
        }
        for name, (family, kind, address) in kinds.items():
            listener = socket.socket(family, kind)
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            self._sockets[name] = listener
        return {
            "tcp": self._sockets["tcp"].getsockname()[1],
            "udp": self._sockets["udp"].getsockname()[1],
            "unix_stream": str(folder / "stream"),
            "unix_datagram": str(folder / "datagram"),
            "abstract": abstract,
            "abstract_datagram": f"{abstract}-datagram",
        }

    def _stand_ins(self, data: Path) -> dict[str, Any]:
        data.mkdir()
        for name in SECRETS:
            (data / name).write_text(self._secret)
        (data / "records.sqlite").write_text(f"SQLite format 3 {self._secret}")
        for name in ("payload", "result"):
            (data / name).write_text(self._secret)
        (data / "log").write_text("agent.connected")
        (data / "readable").write_text("")
        return {
            **dict.fromkeys(PROCESSES, self._process.pid),
            "data": str(data),
            "payload": str(data / "payload"),
            "result": str(data / "result"),
            "log": str(data / "log"),
            "readable": str(data / "readable"),
            "secrets": [self._secret.encode().hex(), os.environ["PLANTED_SECRET"]],
        }

    def witness(self, text: str, evidence: str = "", dying_s: float = 0.0) -> dict[str, bool]:
        """What the attack brought about, as seen from outside. ``text`` is all that came back from it.

        A process that was killed may take ``dying_s`` to be gone, where there is much to do.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(dying_s)
        seen = {
            "leaked": any(secret in text for secret in self._secrets) or bool(evidence and evidence in text),
            "done": self.done in text,
            "received": self._mark.encode() in self._received(),
            "killed": self._process_is_dead() or not _all_alive(self._place),
        }
        seen["changed"] = seen["killed"] or self._fingerprint() != self._before
        self._clear()
        return seen

    def _process_is_dead(self) -> bool:
        return self._process.poll() is not None

    def _received(self) -> bytes:
        data = b""
        for listener in self._sockets.values():
            try:
                if listener.type == socket.SOCK_STREAM:
                    connection, _ = listener.accept()
                    with connection:
                        data += connection.recv(65536)
                else:
                    data += listener.recv(65536)
            except BlockingIOError:
                continue
        with contextlib.suppress(BlockingIOError):
            data += os.read(self._fifo_fd, 65536)
        return data

    def _fingerprint(self) -> str:
        if self._process_is_dead():
            return "dead"
        pid = self._process.pid
        return json.dumps(
            [
                self._file.read_text() if self._file.is_file() else None,
                [_stat(path) for path in (self._folder, *sorted(self._folder.iterdir()))],
                os.listxattr(self._file) if self._file.exists() else None,
                _flags(self.told["readable"]),
                sorted(os.sched_getaffinity(pid)),
                os.getpriority(os.PRIO_PROCESS, pid),
                os.sched_getscheduler(pid),
                resource.prlimit(pid, resource.RLIMIT_NOFILE),
                Path(f"/proc/{pid}/oom_score_adj").read_text(),
            ]
        )

    def _clear(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for listener in self._sockets.values():
            listener.close()
        os.close(self._fifo_fd)
        os.close(self._open_fd)
        self._folder.chmod(0o700)


def _without_capabilities() -> None:
    """Where tests run as root, the process is still like one of an ordinary account."""
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _stat(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    times = (found.st_mtime_ns,) if path.name == "secret.txt" else ()
    return (path.name, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_nlink, *times)


def _flags(path: str) -> int | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return int(struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))[0])
    except OSError:
        return None  # a file system without such flags
    finally:
        os.close(fd)


def _all_alive(place: dict[str, Any]) -> bool:
    return all(is_alive(place[name]) for name in PROCESSES)


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
