"""How payloads reach a node and results leave it.

``FolderTransfer`` is for an agent that shares the gateway's blob folder: nothing is copied. ``BucketTransfer`` is for one that
has keys to the bucket in which the gateway keeps blobs: results go there and not by way of the gateway. ``HttpTransfer``
is for all others: signed links, through a spool folder of the agent's own.
"""

import asyncio
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Protocol

import httpx
import structlog

from edif.blobs.file_blobs import FileBlobs
from edif.core import errors
from edif.core.errors import BlobsUnavailable, JobFailed, Refused
from edif.worker.spool import Committed, SpoolFile

log = structlog.get_logger()

_CHUNK_BYTES = 1 << 20
_SEND_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_BROKEN_OFF = 3
_BUCKET_AWAY = {kind.code: kind for kind in errors.BLOBS_AWAY}
_NO_BUCKET = "The store of results could not be used for as long as a result is held; it could not be kept."


class Spooled(Protocol):
    """A result being written: its file, where it goes, and how it is given up."""

    file: SpoolFile

    async def commit(self) -> Committed: ...

    def discard(self) -> None: ...


class Transfer(Protocol):
    async def fetch(self, name: str, url: str) -> int:
        """A read-only descriptor of a blob, which the caller closes.

        Raises:
            NotThere: there is no such blob.
            TransferFailed: it cannot be had now.
        """
        ...

    def spool(self, name: str, url: str) -> Spooled:
        """For a blob that is to be written."""
        ...

    def free_bytes(self) -> int:
        """Room for results on the disk that they are written to here."""
        ...


class TransferFailed(Exception):
    """Bytes could not be moved; the attempt is lost, and the job may be tried again."""


class NotThere(TransferFailed):
    """A blob that was asked for does not exist, or not any more."""


class FolderTransfer:
    def __init__(self, blobs: FileBlobs) -> None:
        self._blobs = blobs

    async def fetch(self, name: str, url: str) -> int:
        try:
            return os.open(self._blobs.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotThere(f"{name} is not there") from error
        except OSError as error:
            raise TransferFailed(f"{name} cannot be opened: {error.strerror}") from error

    def spool(self, name: str, url: str) -> Spooled:
        return _FolderSpooled(self._blobs, name)

    def free_bytes(self) -> int:
        return self._blobs.free_bytes()


class _FolderSpooled:
    def __init__(self, blobs: FileBlobs, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self.file = SpoolFile(blobs.temporary())

    async def commit(self) -> Committed:
        return await asyncio.to_thread(self._commit)

    def _commit(self) -> Committed:
        committed = self.file.finish()
        self._blobs.adopt(self.file.path, self._name)
        return committed

    def discard(self) -> None:
        self.file.discard()


class HttpTransfer:
    """Through the gateway's signed links.

    Args:
        spool: a private folder of the agent.
        hold_s: how long a result is held and sent again while the gateway's disk is full, or its bucket is away.
    """

    def __init__(self, client: httpx.AsyncClient, spool: Path, hold_s: float) -> None:
        self._client = client
        self._spool = spool
        self._hold_s = hold_s
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def fetch(self, name: str, url: str) -> int:
        """Whoever has it, bucket or gateway, is waited for: a gateway that is started again, or follows one that died, has the
        attempt on record.
        """
        until = time.monotonic() + self._hold_s
        broken = _BrokenOff()
        for tries in count():
            last = time.monotonic() >= until
            if (fetched := await self._fetched(name, url, broken, last=last)) is not None:
                return fetched
            if tries == 0:
                log.warning("agent.blob_awaited", blob=name)
            await asyncio.sleep(_again_in_s(tries))
        raise AssertionError

    async def _fetched(self, name: str, url: str, broken: "_BrokenOff", *, last: bool) -> int | None:
        """A descriptor of the blob; None if it is to be tried again, for whoever has it is away.

        Args:
            broken: of this fetch.
            last: it is not to be tried again.
        """
        path = self._spool / secrets.token_hex(12)
        try:
            async with self._client.stream("GET", url) as response:
                if response.is_server_error and not last:
                    broken.answered()
                    return None
                if response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
                    raise NotThere(f"{name} is not there")
                response.raise_for_status()
                with path.open("xb") as file:
                    async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                        await asyncio.to_thread(file.write, chunk)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (httpx.HTTPError, OSError) as error:
            if not last and broken.is_away(error):
                return None
            raise TransferFailed(f"{name} cannot be fetched: {_told(error)}") from error
        finally:
            path.unlink(missing_ok=True)

    def spool(self, name: str, url: str) -> Spooled:
        return _HttpSpooled(self._client, self._path(name), url, self._hold_s)

    def _path(self, name: str) -> Path:
        return self._spool / f"{name.replace('/', '-')}-{secrets.token_hex(6)}"

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._spool).free


class _Held(ABC):
    """A result that is sent elsewhere, and held here for as long as it is not taken there."""

    def __init__(self, path: Path, hold_s: float) -> None:
        self.file = SpoolFile(path)
        self._hold_s = hold_s

    async def commit(self) -> Committed:
        committed = await asyncio.to_thread(self.file.finish)
        until = time.monotonic() + self._hold_s
        try:
            for refused in count():
                if await self._sent(committed.size, refused, last=time.monotonic() >= until):
                    break
                if refused == 0:
                    log.warning("agent.result_held", result=self.file.path.name, size_bytes=committed.size)
                await asyncio.sleep(_again_in_s(refused))
        finally:
            self.discard()
        return committed

    @abstractmethod
    async def _sent(self, size: int, tries: int, *, last: bool) -> bool:
        """Send it; False if that is to be tried again, for it is not taken now.

        Args:
            tries: how often it was not taken before.
            last: it is not to be tried again.
        """

    def discard(self) -> None:
        self.file.discard()


class _HttpSpooled(_Held):
    def __init__(self, client: httpx.AsyncClient, path: Path, url: str, hold_s: float) -> None:
        super().__init__(path, hold_s)
        self._client = client
        self._url = url
        self._broken = _BrokenOff()

    async def _sent(self, size: int, tries: int, *, last: bool) -> bool:
        try:
            async with aclosing(self._chunks()) as chunks:
                response = await self._client.put(
                    self._url, content=chunks, headers={"content-length": str(size)}
                )
        except httpx.HTTPError as error:
            if not last and self._broken.is_away(error):
                return False
            raise TransferFailed(f"the result cannot be sent: {error}") from error
        if response.is_success:
            return True
        self._broken.answered()
        code = _code(response)
        if code in (errors.STORAGE_LOW.code, *_BUCKET_AWAY) and not last:
            return False
        if code in _BUCKET_AWAY:
            raise JobFailed(_BUCKET_AWAY[code], _NO_BUCKET)
        if response.status_code == errors.STORAGE_LOW.http_status:
            raise JobFailed(errors.STORAGE_FULL, "The fabric's disk is full; the result could not be kept.")
        raise TransferFailed(f"the gateway refused the result: HTTP {response.status_code}")

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        with self.file.path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk


class ResultBucket(Protocol):
    """The part of :class:`edif.blobs.s3_blobs.S3Blobs` that a node needs."""

    async def id(self) -> str | None: ...

    async def upload(self, name: str, path: Path) -> None: ...


class BucketTransfer(HttpTransfer):
    """As by links, but what is written goes straight to the bucket."""

    def __init__(self, client: httpx.AsyncClient, spool: Path, hold_s: float, bucket: ResultBucket) -> None:
        super().__init__(client, spool, hold_s)
        self._bucket = bucket

    def spool(self, name: str, url: str) -> Spooled:
        return _BucketSpooled(self._bucket, self._path(name), name, self._hold_s)


class _BucketSpooled(_Held):
    def __init__(self, bucket: ResultBucket, path: Path, name: str, hold_s: float) -> None:
        super().__init__(path, hold_s)
        self._bucket = bucket
        self._name = name

    async def _sent(self, size: int, tries: int, *, last: bool) -> bool:
        try:
            await self._bucket.upload(self._name, self.file.path)
        except (BlobsUnavailable, Refused) as error:
            if last:
                raise JobFailed(error.kind, _NO_BUCKET) from error
            if tries == 0:
                log.warning("agent.bucket_away", reason=error.sentence)
            return False
        return True


def _again_in_s(tries: int) -> float:
    return _SEND_AGAIN_S[min(tries, len(_SEND_AGAIN_S) - 1)]


class _BrokenOff:
    """How often in a row somebody was there and broke off: who does so every time will not have it."""

    def __init__(self) -> None:
        self._times = 0

    def answered(self) -> None:
        self._times = 0

    def is_away(self, error: Exception) -> bool:
        """Whether who raises this is to be tried again: nobody is there, or goes away in the middle of it."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self._times = 0
            return True
        self._times += 1
        return isinstance(error, httpx.TransportError) and self._times <= _BROKEN_OFF


def _told(error: Exception) -> str:
    """What went wrong, without the link: who has it has the blob."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return str(error) or type(error).__name__


def _code(response: httpx.Response) -> str:
    """The code with which the gateway refused, empty if it is none of its answers."""
    try:
        return str(response.json()["code"])
    except (ValueError, LookupError, TypeError):
        return ""
