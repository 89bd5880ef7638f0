"""What is particular to blobs in S3: uploads in parts, links of the store's own, what a store can say against it."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from obstore.exceptions import GenericError

from edif.blobs import s3_blobs, s3_requests
from edif.blobs.s3_blobs import PART_BYTES, S3Blobs
from edif.blobs.s3_requests import Bucket, Credentials
from edif.blobs.store import result_name
from edif.core import errors
from edif.core.errors import BlobsUnavailable, ErrorCode
from tests.servers.radosgw import RadosGateway
from tests.unit.blobs.factories import bucket_of, chunks_of

NAME = result_name("j1", 1)
LARGE = bytes(range(256)) * (3 * PART_BYTES // 256) + b"and a rest"


@pytest.fixture
def bucket(radosgw: RadosGateway) -> Bucket:
    return bucket_of(radosgw, radosgw.new_bucket(), "some/fabric")


@pytest.fixture
def blobs(bucket: Bucket, tmp_path: Path) -> S3Blobs:
    return S3Blobs(bucket, tmp_path)


async def mebibytes(number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b"x" * 2**20


# -- uploads in parts ----------------------------------------------------------------------------------
async def test_blob_of_many_parts_comes_back_whole(blobs: S3Blobs, radosgw: RadosGateway) -> None:
    chunks = [LARGE[start : start + 2**20] for start in range(0, len(LARGE), 2**20)]
    assert await blobs.put(NAME, chunks_of(*chunks), limit_bytes=len(LARGE)) == len(LARGE)
    assert await blobs.read(NAME) == LARGE
    assert radosgw.objects(blobs.bucket.name) == {f"some/fabric/{NAME}": len(LARGE)}


async def test_finished_file_is_uploaded(blobs: S3Blobs, tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(LARGE)
    await blobs.upload(NAME, path)
    assert await blobs.read(NAME) == LARGE
    assert path.exists(), "it is its owner's"


async def test_upload_that_is_cancelled_is_ended_in_the_store(
    blobs: S3Blobs, radosgw: RadosGateway, tmp_path: Path
) -> None:
    path = tmp_path / "result"
    with path.open("wb") as file:
        file.truncate(60 * PART_BYTES)
    uploading = asyncio.create_task(blobs.upload(NAME, path))
    async with asyncio.timeout(60):
        while not radosgw.unfinished_uploads(blobs.bucket.name):
            await asyncio.sleep(0)
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert radosgw.unfinished_uploads(blobs.bucket.name) == []
    assert await blobs.size(NAME) is None


async def test_uploads_that_nobody_ended_are_swept_once_they_are_old_and_no_others(
    blobs: S3Blobs, radosgw: RadosGateway
) -> None:
    ours, others = f"some/fabric/{NAME}", "some/fabric-else/result/j1-1"
    for key in (ours, ours, others):
        radosgw.begin_upload(blobs.bucket.name, key)
    await blobs.sweep_temporary(older_than_s=3600)
    assert sorted(radosgw.unfinished_uploads(blobs.bucket.name)) == sorted([ours, ours, others])
    await blobs.sweep_temporary(older_than_s=-3600)
    assert radosgw.unfinished_uploads(blobs.bucket.name) == [others]


async def test_spool_holds_no_more_than_is_on_its_way(blobs: S3Blobs, tmp_path: Path) -> None:
    await blobs.put(NAME, mebibytes(20), limit_bytes=2**30)
    assert list(tmp_path.iterdir()) == []
    assert blobs.free_bytes() > 0


# -- links -----------------------------------------------------------------------------------------------
async def test_link_opens_the_blob_to_whoever_has_it_with_length_and_ranges(blobs: S3Blobs) -> None:
    await blobs.put(NAME, chunks_of(LARGE), limit_bytes=len(LARGE))
    link = await blobs.link(NAME, 60)
    async with httpx.AsyncClient() as client:
        whole = await client.get(link)
        part = await client.get(link, headers={"range": f"bytes={PART_BYTES - 1}-{PART_BYTES + 1}"})
        rest = await client.get(link, headers={"range": "bytes=-4"})
        outside = await client.get(link, headers={"range": f"bytes={len(LARGE)}-"})
    assert (whole.status_code, whole.content) == (200, LARGE)
    assert whole.headers["content-length"] == str(len(LARGE))
    assert (part.status_code, part.content) == (206, LARGE[PART_BYTES - 1 : PART_BYTES + 2])
    assert (rest.status_code, rest.content) == (206, b"rest")
    assert outside.status_code == 416


async def test_link_that_was_altered_or_has_expired_opens_nothing(blobs: S3Blobs) -> None:
    other = result_name("j2", 1)
    for name in (NAME, other):
        await blobs.put(name, chunks_of(b"secret"), limit_bytes=10)
    link, brief = await blobs.link(NAME, 60), await blobs.link(NAME, 1)
    async with httpx.AsyncClient() as client:
        for bent in (
            link.replace(NAME, other),
            link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.partition("?")[0],
        ):
            assert (await client.get(bent)).status_code == 403
        assert (await client.put(link, content=b"mine")).status_code == 403
        assert (await client.delete(link)).status_code == 403
        deadline = time.monotonic() + 60
        while (await client.get(brief)).status_code != 403:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert (await client.get(link)).content == b"secret"


async def test_link_is_valid_for_as_long_as_s3_allows_at_most(blobs: S3Blobs) -> None:
    await blobs.put(NAME, chunks_of(b"x"), limit_bytes=10)
    assert "X-Amz-Expires=604800&" in (link := await blobs.link(NAME, 30 * 24 * 3600.0))
    async with httpx.AsyncClient() as client:
        assert (await client.get(link)).content == b"x"


# -- renaming ----------------------------------------------------------------------------------------------
RENAMED = result_name("j1", 1, revocations=1)


async def test_link_to_a_name_that_a_blob_had_opens_nothing(blobs: S3Blobs) -> None:
    await blobs.put(NAME, chunks_of(b"result"), limit_bytes=10)
    before = await blobs.link(NAME, 60)
    await blobs.rename(NAME, RENAMED)
    async with httpx.AsyncClient() as client:
        assert (await client.get(before)).status_code == 404
        assert (await client.get(before.replace(NAME, RENAMED))).status_code == 403
        assert (await client.get(await blobs.link(RENAMED, 60))).content == b"result"


@pytest.fixture
def copies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of what is larger than 5 GiB, which no test can afford."""
    monkeypatch.setattr(s3_blobs, "_LARGEST_COPY_BYTES", 2 * PART_BYTES)

    def refuse(*_: object) -> None:
        raise AssertionError("the service does not copy it")

    monkeypatch.setattr(s3_blobs.obstore, "copy_async", refuse)


@pytest.mark.usefixtures("copies_are_refused")
async def test_what_is_too_large_for_a_copy_is_renamed_in_parts(
    blobs: S3Blobs, radosgw: RadosGateway
) -> None:
    await blobs.put(NAME, chunks_of(LARGE), limit_bytes=len(LARGE))
    await blobs.rename(NAME, RENAMED)
    assert await blobs.read(RENAMED) == LARGE
    assert radosgw.objects(blobs.bucket.name) == {f"some/fabric/{RENAMED}": len(LARGE)}


@pytest.mark.usefixtures("copies_are_refused")
async def test_renaming_in_parts_that_breaks_off_loses_nothing(
    blobs: S3Blobs, radosgw: RadosGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put(NAME, chunks_of(LARGE), limit_bytes=len(LARGE))
    real = s3_blobs.obstore.get_range_async

    async def breaks_off(store: object, name: str, *, start: int, end: int) -> object:
        if start >= 2 * PART_BYTES:
            raise GenericError("the store does not answer")
        return await real(store, name, start=start, end=end)  # type: ignore[arg-type]

    monkeypatch.setattr(s3_blobs.obstore, "get_range_async", breaks_off)
    with pytest.raises(BlobsUnavailable):
        await blobs.rename(NAME, RENAMED)
    assert radosgw.unfinished_uploads(blobs.bucket.name) == []
    assert radosgw.objects(blobs.bucket.name) == {f"some/fabric/{NAME}": len(LARGE)}


# -- which store it is -----------------------------------------------------------------------------------
async def test_store_has_one_name_that_is_made_once(bucket: Bucket, tmp_path: Path) -> None:
    first, second = S3Blobs(bucket, tmp_path), S3Blobs(bucket, tmp_path)
    assert await second.id() is None, "only a gateway makes it"
    names = await asyncio.gather(first.id(make="one"), second.id(make="other"))
    assert names in (["one", "one"], ["other", "other"])
    elsewhere = S3Blobs(dataclasses.replace(bucket, prefix="other"), tmp_path)
    assert await elsewhere.id(make="third") == "third"
    assert await first.names() == [], "it is no blob"


# -- what can stand against it -----------------------------------------------------------------------------
def told(bucket: Bucket, tmp_path: Path) -> ErrorCode:
    """The code with which a store of this bucket refuses what a gateway asks first."""

    async def ask() -> None:
        await S3Blobs(bucket, tmp_path).id(make="a fabric")

    with pytest.raises(BlobsUnavailable) as refused:
        asyncio.run(ask())
    assert bucket.url in refused.value.sentence
    assert bucket.endpoint in refused.value.sentence
    return refused.value.kind


def test_wrong_keys_and_a_missing_bucket_each_have_a_sentence(bucket: Bucket, tmp_path: Path) -> None:
    assert bucket.credentials is not None
    unknown = Credentials("NOBODY", bucket.credentials.secret_key)
    wrong = Credentials(bucket.credentials.access_key, "wrong")
    for credentials in (unknown, wrong):
        assert told(dataclasses.replace(bucket, credentials=credentials), tmp_path) is errors.BLOBS_DENIED
    assert told(dataclasses.replace(bucket, name="no-such-bucket"), tmp_path) is errors.BLOBS_MISSING


def test_keys_that_were_forgotten_have_a_sentence(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    assert told(dataclasses.replace(bucket, credentials=None), tmp_path) is errors.BLOBS_DENIED


def test_store_that_does_not_answer_has_a_sentence(bucket: Bucket, tmp_path: Path) -> None:
    assert (
        told(dataclasses.replace(bucket, endpoint="http://127.0.0.1:9"), tmp_path) is errors.BLOBS_UNREACHABLE
    )


async def test_clock_that_is_wrong_has_a_sentence(
    blobs: S3Blobs, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Late":
            moment = datetime.now(UTC) - timedelta(hours=1)
            return cls.fromtimestamp(moment.timestamp(), UTC)

    monkeypatch.setattr(s3_requests, "datetime", Late)
    with pytest.raises(BlobsUnavailable) as refused:
        await blobs.sweep_temporary(older_than_s=0)
    assert refused.value.kind is errors.BLOBS_CLOCK


@pytest.mark.parametrize("size", [1, 3 * 2**20 + PART_BYTES], ids=["small", "in-parts"])
async def test_nothing_is_kept_that_a_store_did_not_take_and_all_is_said(
    bucket: Bucket, tmp_path: Path, size: int
) -> None:
    away = S3Blobs(dataclasses.replace(bucket, endpoint="http://127.0.0.1:9"), tmp_path)
    tries = (
        away.put(NAME, chunks_of(b"x" * size), limit_bytes=2**30),
        away.size(NAME),
        away.read(NAME),
        away.delete(NAME),
        away.names(),
        away.sweep_temporary(0),
    )
    for each in tries:
        with pytest.raises(BlobsUnavailable) as refused:
            await each
        assert refused.value.kind is errors.BLOBS_UNREACHABLE
    assert list(tmp_path.iterdir()) == []


async def test_keys_that_are_no_longer_let_in_are_no_missing_blob(bucket: Bucket, tmp_path: Path) -> None:
    """Else a result would be called gone that is there."""
    denied = S3Blobs(dataclasses.replace(bucket, credentials=Credentials("NOBODY", "x")), tmp_path)
    for each in (denied.size(NAME), denied.read(NAME), denied.delete(NAME), denied.names()):
        with pytest.raises(BlobsUnavailable) as refused:
            await each
        assert refused.value.kind is errors.BLOBS_DENIED
