"""A result's file while it is written: its checksum is taken and its bytes go to the disk on the way, not after it."""

import hashlib
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edif.core.limits import MIB

_STEP_BYTES = MIB
_SYNC_BYTES = 64 * MIB
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Committed:
    """A result that is in the blob store. Sizes in bytes."""

    size: int
    sha256: str


class SpoolFile:
    """The file that an executor writes a result to, from its first byte to its last, never back.

    Args:
        path: where it will be; nothing needs to be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = _Reading(path)

    def create(self) -> int:
        """A descriptor to write to the new file.

        Raises:
            OSError: it is there already, or cannot be made.
        """
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def start_again(self) -> None:
        """Forget what was written: the next file is another one, which who still has the old one open cannot reach."""
        self.discard()
        self._reading = _Reading(self.path)

    def follow(self) -> None:
        """Read along from now on: what is being written is large. The file must be there."""
        self._reading.follow()

    def finish(self) -> Committed:
        """What the file holds, now that it is whole. Blocks.

        Raises:
            OSError: it cannot be read, or the disk is full.
        """
        return self._reading.finish()

    def discard(self) -> None:
        self._reading.over.set()
        self.path.unlink(missing_ok=True)


class _Reading:
    """How far one file has been read, and who reads on."""

    def __init__(self, path: Path) -> None:
        self.over = threading.Event()
        self._path = path
        self._digest = hashlib.sha256()
        self._digested = 0
        self._followers: list[threading.Thread] = []

    def follow(self) -> None:
        if not self._followers:
            self._followers = [
                threading.Thread(target=work, name=f"spool-{work.__name__.strip('_')}", daemon=True)
                for work in (self._read_along, self._sync_along)
            ]
            for follower in self._followers:
                follower.start()

    def finish(self) -> Committed:
        self._stop()
        with self._path.open("rb") as file:
            file.seek(self._digested)
            self._take(file.fileno())
        return Committed(self._digested, self._digest.hexdigest())

    def _stop(self) -> None:
        self.over.set()
        for follower in self._followers:
            follower.join()

    def _take(self, fd: int) -> None:
        """Read on to where the file ends now."""
        while piece := os.read(fd, _STEP_BYTES):
            self._digest.update(piece)
            self._digested += len(piece)

    # What a follower meets - a full disk, a file that was discarded - the end meets again, and tells.
    def _read_along(self) -> None:
        with suppress(OSError), self._path.open("rb", buffering=0) as file:
            while not self.over.wait(_LOOK_EVERY_S):
                self._take(file.fileno())

    def _sync_along(self) -> None:
        """So that the sync at the end, before the result counts, has little left to do."""
        synced = 0
        with suppress(OSError), self._path.open("rb", buffering=0) as file:
            while not self.over.wait(_LOOK_EVERY_S):
                size = os.fstat(file.fileno()).st_size
                if size - synced >= _SYNC_BYTES:
                    os.fdatasync(file.fileno())
                    synced = size
