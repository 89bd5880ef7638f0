"""The data folder: one fabric's records, blobs and secrets, led by one gateway at a time.

records.sqlite   the record store, unless it is in PostgreSQL
blobs/           payloads and results; blobs/store.id names the folder
spool/           payloads and results on their way
hub/             metadata files of the served models
*.token, *.key   secrets, readable by the owner only
run/             who runs now: lock files, process ids, the gateway's URL, logs
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edif.core import errors
from edif.core.errors import SetupError
from edif.core.ids import new_agent_id

_FULL = (errno.ENOSPC, errno.EDQUOT)


def _whole_file(kind: int) -> bytes:
    """A ``struct flock`` over the whole file. Locks of this family belong to the open file, not the process,
    and can be asked about without being taken (fcntl_locking(2)).
    """
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DataFolder:
    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def hub(self) -> Path:
        return self.root / "hub"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def log(self, name: str) -> Path:
        """Where the supervisor has the service of this name write its log."""
        return self.run / "logs" / f"{name}.log"

    @property
    def fault_marks(self) -> Path:
        """Which fault points have fired here; there is none but in tests."""
        return self.run / "faults"

    def prepare(self) -> None:
        """Create the folder and what must be in it.

        Raises:
            SetupError: it cannot be written.
        """
        try:
            for folder in (self.root, self.run, self.blobs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.run / f"probe-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            if error.errno in _FULL:
                raise self._full() from error
            raise SetupError(
                errors.DATA_UNWRITABLE,
                f"The data folder {str(self.root)!r} cannot be written: {error.strerror}.",
            ) from error

    @contextlib.contextmanager
    def while_there_is_room(self) -> Iterator[None]:
        """
        Raises:
            SetupError: what was done while entered met a full disk.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise self._full() from error
            raise

    def _full(self) -> SetupError:
        return SetupError(
            errors.STORAGE_FULL,
            f"The disk of the data folder {str(self.root)!r} is full.",
            "Free space on it.",
        )

    def secret(self, name: str) -> str:
        """The secret in the file of this name, made at the first call."""
        return self._once(self.root / name, f"{name.split('.')[0]}_{secrets.token_urlsafe(32)}")

    def seat(self) -> str:
        """The name of the one agent that may run on this folder, whichever process it is now."""
        return self._once(self.run / "agent.id", new_agent_id())

    def store_id(self) -> str:
        """A name for the blob folder by which an agent recognises it."""
        return self._once(self.blobs / "store.id", secrets.token_hex(16))

    @staticmethod
    def _once(path: Path, value: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        # Written whole under another name first: a full disk must not leave an empty secret behind.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its value counts
                os.link(temporary, path)
        finally:
            temporary.unlink()
        return path.read_text().strip()

    @contextlib.contextmanager
    def hold(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock of this name while entered.

        Raises:
            SetupError: another process holds it, and its end is not waited for.
        """
        with (self.run / f"{name}.lock").open("w") as file:
            try:
                how = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
                fcntl.fcntl(file, how, _whole_file(fcntl.F_WRLCK))
            except BlockingIOError as error:
                raise SetupError(
                    errors.DATA_IN_USE, f"Another {name} already runs on the data folder {str(self.root)!r}."
                ) from error
            yield

    def held(self, name: str) -> bool:
        """Whether some process holds the lock of this name. Asking takes nothing."""
        try:
            with (self.run / f"{name}.lock").open("r+") as file:
                answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
        except FileNotFoundError:
            return False
        kind: int = struct.unpack_from("h", answer)[0]
        return kind != fcntl.F_UNLCK

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """Write down facts about a running service, replacing earlier ones at once."""
        temporary = self.run / f"{name}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({**facts, "host": socket.gethostname()}))
        temporary.rename(self.run / f"{name}.json")

    def facts(self, name: str) -> dict[str, Any] | None:
        """What a service that runs now has noted; None if none runs on this machine."""
        if not self.run.is_dir() or not self.held(name):
            return None
        try:
            facts: dict[str, Any] = json.loads((self.run / f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        # Gateways of several machines may share a folder; a process id means nothing elsewhere.
        return facts if facts.pop("host", socket.gethostname()) == socket.gethostname() else None
