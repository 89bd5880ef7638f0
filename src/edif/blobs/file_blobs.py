"""The blob store in a folder.

A blob is written to ``tmp/``, synced, and renamed into its place: a reader sees all of it or nothing, and
after a crash what is there is whole.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from edif.blobs.store import KINDS, check_name, check_size, is_name
from edif.core import errors
from edif.core.errors import Refused

_SMALL_BYTES = 64 * 1024
"""Reading and writing so little costs less than handing it to a thread."""
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def disk_full_refused() -> Iterator[None]:
    """Turn a full disk into the error that its reader can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise Refused(errors.STORAGE_FULL, "The fabric's disk is full; nothing was recorded.") from error
        raise


def sweep_half_written(folder: Path, writer: str) -> None:
    """Delete what a writer of this name left half written when it died. Only for who has its place now."""
    for path in (folder / "tmp").glob(f"{writer}-*"):
        path.unlink(missing_ok=True)


class FileBlobs:
    """See :class:`edif.blobs.store.BlobStore`.

    Args:
        writer: who writes here; what it has half written bears its name.
    """

    def __init__(self, folder: Path, writer: str = "somebody") -> None:
        self.folder = folder
        self._writer = writer
        self._tmp = folder / "tmp"
        for part in ("tmp", *KINDS):
            (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Where the blob of this name is or will be."""
        check_name(name)
        return self.folder / name

    async def put(self, name: str, chunks: AsyncIterator[bytes], *, limit_bytes: int) -> int:
        target = self.path(name)
        temporary = self.temporary()
        size = 0
        try:
            with disk_full_refused(), temporary.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    check_size(size, limit_bytes)
                    if len(chunk) > _SMALL_BYTES:
                        await asyncio.to_thread(file.write, chunk)
                    else:
                        file.write(chunk)
                await asyncio.to_thread(_finish, file, temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return size

    def temporary(self) -> Path:
        """A fresh name in the folder's ``tmp``; :meth:`adopt` moves what was written there into place."""
        return self._tmp / f"{self._writer}-{secrets.token_hex(12)}"

    def adopt(self, temporary: Path, name: str) -> None:
        """Sync a finished file from :meth:`temporary` and rename it to its blob name. Blocks."""
        with disk_full_refused(), temporary.open("rb") as file:
            _finish(file, temporary, self.path(name))

    async def size(self, name: str) -> int | None:
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    async def read(self, name: str) -> bytes:
        path = self.path(name)
        if path.stat().st_size <= _SMALL_BYTES:
            return path.read_bytes()
        return await asyncio.to_thread(path.read_bytes)

    async def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    async def rename(self, old: str, new: str) -> None:
        before, after = self.path(old), self.path(new)

        def renamed() -> None:
            before.rename(after)
            _sync_folder(after.parent)

        await asyncio.to_thread(renamed)

    async def names(self) -> list[str]:
        def listed() -> list[str]:
            paths = [path for kind in KINDS for path in (self.folder / kind).iterdir() if path.is_file()]
            names = [f"{path.parent.name}/{path.name}" for path in paths]
            return [name for name in names if is_name(name)]  # not what an editor or NFS left there

        return await asyncio.to_thread(listed)

    def free_bytes(self) -> int:
        """Space left on the folder's file system, in bytes."""
        return shutil.disk_usage(self.folder).free

    async def sweep_temporary(self, older_than_s: float) -> None:
        """Delete what a process that died left half written: nothing has been written to it for so long."""
        before = time.time() - older_than_s
        for path in self._tmp.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was finished, and renamed
                if path.stat().st_mtime < before:
                    path.unlink()


def _finish(file: IO[bytes], temporary: Path, target: Path) -> None:
    if file.writable():
        file.flush()
    os.fsync(file.fileno())
    temporary.rename(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """What is named in it survives a crash."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
