"""The blob store in an S3 bucket.

S3 shows an object only when it is whole, so a blob is put in one request, or as an upload in parts that counts when it is
completed. One that breaks off stays in the bucket unseen, and costs room: whoever began it ends it, and what was left by
those who died is swept. Nothing is begun before all bytes are at hand, so a client that goes away leaves nothing there.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import httpx
import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from edif.blobs.file_blobs import disk_full_refused
from edif.blobs.s3_requests import Bucket, end_upload, unfinished_uploads
from edif.blobs.store import KINDS, check_name, check_size, is_name
from edif.core import errors
from edif.core.errors import BlobsUnavailable, Refused

log = structlog.get_logger()

PART_BYTES = 5 * 2**20
"""What is larger goes up in parts of this size, the least that S3 takes, or of a nine thousandth of it: it takes ten thousand."""
_PARTS_AT_ONCE = 4
_MOST_PARTS = 9000
_LARGEST_COPY_BYTES = 5 * 2**30
"""What is larger S3 does not copy in one request, and ``object_store`` does not in several
(https://github.com/apache/arrow-rs-object-store/issues/563)."""
_TRIES = 3
_TRY_FOR = timedelta(seconds=10)
_REQUEST = timedelta(seconds=120)
_LONGEST_LINK_S = 7 * 24 * 3600.0  # by S3's own rule
_CLEAN_UP_S = 10.0
_ID = "store.id"


class S3Blobs:
    """See :class:`edif.blobs.store.BlobStore`.

    Args:
        spool: a private folder for bytes on their way.
    """

    def __init__(self, bucket: Bucket, spool: Path) -> None:
        self.bucket = bucket
        self._spool = spool
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._store = _opened(bucket)
        self._id: str | None = None

    # -- blobs -----------------------------------------------------------------------------------------
    async def put(self, name: str, chunks: AsyncIterator[bytes], *, limit_bytes: int) -> int:
        check_name(name)
        with disk_full_refused(), tempfile.SpooledTemporaryFile(PART_BYTES, dir=str(self._spool)) as file:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                check_size(size, limit_bytes)
                if size > PART_BYTES:  # it lies on the disk
                    await asyncio.to_thread(file.write, chunk)
                else:
                    file.write(chunk)
            file.seek(0)
            await self._upload(name, file, size)
        return size

    async def upload(self, name: str, path: Path) -> None:
        """Put a finished file.

        Raises:
            BlobsUnavailable: the store cannot be used now.
            Refused: it is full.
        """
        check_name(name)
        with path.open("rb") as file:
            await self._upload(name, file, os.fstat(file.fileno()).st_size)

    async def _upload(self, name: str, file: IO[bytes], size: int) -> None:
        part = max(PART_BYTES, size // _MOST_PARTS)
        try:
            with self._understood():
                await obstore.put_async(
                    self._store, name, file, chunk_size=part, max_concurrency=_PARTS_AT_ONCE
                )
        except BaseException:
            if size > part:
                await self._end_uploads_of(name)
            raise

    async def size(self, name: str) -> int | None:
        check_name(name)
        try:
            with self._understood():
                return (await obstore.head_async(self._store, name))["size"]
        except FileNotFoundError:
            return None

    async def read(self, name: str) -> bytes:
        check_name(name)
        with self._understood():
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())

    async def delete(self, name: str) -> None:
        check_name(name)
        with self._understood(), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, name)

    async def rename(self, old: str, new: str) -> None:
        """S3 has no renaming: a copy is made, by the service itself if it does that, and the original deleted."""
        check_name(new)
        size = await self.size(old)
        if size is None:
            raise FileNotFoundError(old)
        if size <= _LARGEST_COPY_BYTES:
            with self._understood():
                await obstore.copy_async(self._store, old, new)
        else:
            await self._copy_by_way_of_here(old, new, size)
        await self.delete(old)

    async def _copy_by_way_of_here(self, old: str, new: str, size: int) -> None:
        """With a few parts in memory."""
        part = max(PART_BYTES, size // _MOST_PARTS)

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, size, part):
                end = min(start + part, size)
                yield bytes(await obstore.get_range_async(self._store, old, start=start, end=end))

        try:
            with self._understood():
                await obstore.put_async(
                    self._store, new, parts(), chunk_size=part, max_concurrency=_PARTS_AT_ONCE
                )
        except BaseException:
            await self._end_uploads_of(new)
            raise

    async def names(self) -> list[str]:
        found: list[str] = []
        with self._understood():
            for kind in KINDS:
                async for page in obstore.list(self._store, kind):
                    found += [each["path"] for each in page]
        return [name for name in found if is_name(name)]

    def free_bytes(self) -> int:
        """Space left where bytes wait on their way, in bytes: a bucket has no bound that it tells."""
        return shutil.disk_usage(self._spool).free

    async def link(self, name: str, valid_s: float) -> str:
        """A URL at which anybody may fetch this blob, for so long and at most seven days."""
        check_name(name)
        valid = timedelta(seconds=min(valid_s, _LONGEST_LINK_S))
        with self._understood():
            return await obstore.sign_async(self._store, "GET", name, valid)

    # -- uploads that nobody ended -----------------------------------------------------------------------
    async def sweep_temporary(self, older_than_s: float) -> None:
        """A machine's own role signs no listing of uploads: there the bucket's lifecycle rule does it."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        try:
            await self._end_uploads(self.bucket.key(""), before)
        except httpx.HTTPStatusError as error:
            raise self._unavailable(error.response.text) from error
        except httpx.HTTPError as error:
            raise self._unavailable(str(error)) from error

    async def _end_uploads_of(self, name: str) -> None:
        """Each attempt has a name of its own, so nobody else uploads under this one."""
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await self._end_uploads(self.bucket.key(name), datetime.max.replace(tzinfo=UTC))
        except (httpx.HTTPError, TimeoutError) as error:
            log.warning("blobs.upload_left", blob=name, reason=repr(error))  # it is swept

    async def _end_uploads(self, prefix: str, begun_before: datetime) -> None:
        if self.bucket.credentials is None:
            return
        async with httpx.AsyncClient(verify=self.bucket.tls()) as http:
            for upload in await unfinished_uploads(http, self.bucket, prefix):
                if upload.begun < begun_before:
                    await end_upload(http, self.bucket, upload)

    # -- which store this is -------------------------------------------------------------------------------
    async def id(self, make: str | None = None) -> str | None:
        """A name for the store by which gateway and agents recognise it; it lies in the bucket, and is made once.

        Args:
            make: the name that it gets where it has none.

        Raises:
            BlobsUnavailable: the store cannot be used now, or not so: no bucket, no right to write.
        """
        if self._id is None:
            with self._understood():
                if not await self._has_id():
                    if make is None:
                        return None
                    with contextlib.suppress(AlreadyExistsError):
                        await obstore.put_async(self._store, _ID, make.encode(), mode="create")
                self._id = bytes(await (await obstore.get_async(self._store, _ID)).bytes_async()).decode()
        return self._id

    async def _has_id(self) -> bool:
        """Asked by listing, for that says why it is refused, which asking for the object itself need not."""
        listed = await obstore.list_with_delimiter_async(self._store)
        return any(each["path"] == _ID for each in listed["objects"])

    async def try_out(self) -> None:
        """Do once what a fabric does all day, with a blob that no job has.

        Raises:
            BlobsUnavailable: the store does not let it.
        """
        name = f"payload/try-{secrets.token_hex(8)}"
        await self.names()
        with self._understood():
            await obstore.put_async(self._store, name, b"eDIF tries out its bucket.")
        await self.read(name)
        await self.delete(name)
        if self.bucket.credentials is not None:
            await self.sweep_temporary(_LONGEST_LINK_S)

    # -- errors --------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """
        Raises:
            BlobsUnavailable: what the store said, in words that its reader can act on.
            Refused: it is full.
            FileNotFoundError: there is no such object.
        """
        try:
            yield
        except FileNotFoundError as error:
            if "<Code>NoSuchBucket</Code>" in str(error):
                raise self._unavailable(str(error)) from error
            raise
        except BaseError as error:
            raise self._unavailable(str(error)) from error

    def _unavailable(self, said: str) -> BlobsUnavailable | Refused:
        """What stands behind an answer of the store; its codes: the list at
        https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what MinIO and Ceph add.
        """
        found = re.search(r"<Code>(\w+)</Code>", said)
        code = found[1] if found else ""
        where = f"the bucket {self.bucket.url} at {self.bucket.endpoint}"
        if self.bucket.credentials is None and _ROLE_OF_MACHINE in said:
            return BlobsUnavailable(
                errors.BLOBS_DENIED,
                f"There are no keys for {where}, and this machine has no role that lets it in.",
            )
        if code == "NoSuchBucket":
            return BlobsUnavailable(errors.BLOBS_MISSING, f"There is not {where}.")
        if code == "RequestTimeTooSkewed":
            return BlobsUnavailable(errors.BLOBS_CLOCK, f"This machine's clock is not that of {where}.")
        if code in ("QuotaExceeded", "XMinioStorageFull"):
            return Refused(errors.STORAGE_FULL, f"{where[0].upper()}{where[1:]} is full.")
        if code in _DENIED or "403 Forbidden" in said or "401 Unauthorized" in said:
            return BlobsUnavailable(
                errors.BLOBS_DENIED, f"The keys are not let in to {where} ({code or 403})."
            )
        why = f" ({code})" if code else ""
        return BlobsUnavailable(
            errors.BLOBS_UNREACHABLE, f"The store of payloads and results, {where}, does not answer{why}."
        )


_ROLE_OF_MACHINE = "/latest/api/token"  # where Amazon tells a machine its role
_DENIED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


def _opened(bucket: Bucket) -> S3Store:
    settings: dict[str, Any] = {"endpoint": bucket.endpoint, "region": bucket.region}
    if bucket.credentials is not None:
        settings["access_key_id"] = bucket.credentials.access_key
        settings["secret_access_key"] = bucket.credentials.secret_key
        if bucket.credentials.token is not None:
            settings["session_token"] = bucket.credentials.token
    client: dict[str, Any] = {
        "allow_http": bucket.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "timeout": _REQUEST,
    }
    if bucket.authorities is not None:
        client["root_certificate"] = Path(bucket.authorities).read_bytes()
    return S3Store(
        bucket.name,
        prefix=bucket.prefix or None,
        client_options=client,  # type: ignore[arg-type] # the library's own names for it exist for type checkers only
        retry_config={"max_retries": _TRIES - 1, "retry_timeout": _TRY_FOR},
        **settings,
    )
