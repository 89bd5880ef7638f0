"""Blobs in a bucket, between an agent and the gateway's real routes: also while the bucket is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from edif.blobs.links import LinkSigner
from edif.blobs.s3_blobs import S3Blobs
from edif.blobs.store import payload_name, result_name
from edif.core import errors
from edif.core.errors import JobFailed
from edif.gateway import unwanted
from edif.gateway.unwanted import Unwanted
from edif.worker import transfer
from edif.worker.transfer import BucketTransfer, HttpTransfer, NotThere, Transfer, TransferFailed
from tests.servers.radosgw import RadosGateway
from tests.unit.blobs.factories import bucket_of, chunks_of

RESULT, PAYLOAD = result_name("j1", 1), payload_name("j1")
LINK = LinkSigner(b"link key").path("put", RESULT, time.time() + 3600)
CONTENT = b"result" * 1000


@pytest.fixture
def blobs(radosgw: RadosGateway, tmp_path: Path) -> S3Blobs:
    """Also the store behind the gateway's routes."""
    return S3Blobs(bucket_of(radosgw, radosgw.new_bucket()), tmp_path / "spool")


@pytest.fixture(params=["bucket", "gateway"])
def to_store(
    request: pytest.FixtureRequest,
    gateway: httpx.AsyncClient,
    blobs: S3Blobs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[float], Transfer]:
    """An agent's ways to the bucket: straight, or with no keys of its own."""
    monkeypatch.setattr(transfer, "_SEND_AGAIN_S", (0.01,))

    def make(hold_s: float) -> Transfer:
        spool = tmp_path / "agent"
        return (
            BucketTransfer(gateway, spool, hold_s, blobs)
            if request.param == "bucket"
            else HttpTransfer(gateway, spool, hold_s)
        )

    return make


@contextmanager
def away(server: RadosGateway) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


async def still_waits(work: Awaitable[object]) -> asyncio.Future[object]:
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=1)
    assert not task.done()
    return task


async def test_result_gets_to_the_bucket(to_store: Callable[[float], Transfer], blobs: S3Blobs) -> None:
    spooled = to_store(0).spool(RESULT, LINK)
    spooled.file.path.write_bytes(CONTENT)
    assert (await spooled.commit()).size == len(CONTENT)
    assert await blobs.read(RESULT) == CONTENT
    assert not spooled.file.path.exists()


async def test_result_is_held_while_the_bucket_is_away(
    to_store: Callable[[float], Transfer], blobs: S3Blobs, radosgw: RadosGateway
) -> None:
    spooled = to_store(3600).spool(RESULT, LINK)
    spooled.file.path.write_bytes(CONTENT)
    with away(radosgw):
        sending = await still_waits(spooled.commit())
        assert spooled.file.path.exists()
    await sending
    assert await blobs.read(RESULT) == CONTENT
    assert not spooled.file.path.exists()


async def test_result_is_held_for_so_long_and_no_longer(
    to_store: Callable[[float], Transfer], radosgw: RadosGateway
) -> None:
    spooled = to_store(0).spool(RESULT, LINK)
    spooled.file.path.write_bytes(CONTENT)
    with away(radosgw), pytest.raises(JobFailed) as failed:
        await spooled.commit()
    assert failed.value.kind is errors.BLOBS_UNREACHABLE
    assert not spooled.file.path.exists()


async def test_payload_is_waited_for_while_the_bucket_is_away(
    blobs: S3Blobs, radosgw: RadosGateway, tmp_path: Path
) -> None:
    await blobs.put(PAYLOAD, chunks_of(b"code"), limit_bytes=10)
    link, gone = await blobs.link(PAYLOAD, 3600), await blobs.link(payload_name("j2"), 3600)
    async with httpx.AsyncClient() as client:
        patient, hasty = (BucketTransfer(client, tmp_path / "agent", hold, blobs) for hold in (3600, 0))
        with away(radosgw):
            fetching = await still_waits(patient.fetch(PAYLOAD, link))
            with pytest.raises(TransferFailed) as failed:
                await hasty.fetch(PAYLOAD, link)
            assert "Signature" not in str(failed.value)
        fd = await fetching
        with open(fd, "rb") as file:  # type: ignore[call-overload]  # noqa: PTH123
            assert file.read() == b"code"
        with pytest.raises(NotThere, match="payload/j2 is not there"):
            await patient.fetch(payload_name("j2"), gone)


async def test_gateways_own_links_open_no_bucket(gateway: httpx.AsyncClient, blobs: S3Blobs) -> None:
    await blobs.put(RESULT, chunks_of(CONTENT), limit_bytes=len(CONTENT))
    before = LinkSigner(b"link key").path("get", RESULT, time.time() + 60)
    answer = await gateway.get(before)
    assert (answer.status_code, answer.json()["code"]) == (403, "link_invalid")


async def test_what_a_bucket_that_is_away_does_not_delete_is_deleted_later(
    blobs: S3Blobs, radosgw: RadosGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwanted, "TRY_AGAIN_S", 0.05)
    for name in (PAYLOAD, RESULT):
        await blobs.put(name, chunks_of(b"x"), limit_bytes=10)
    removal = Unwanted(blobs)
    with away(radosgw):
        await removal.delete(PAYLOAD)
        await removal.delete(RESULT)
    trying = asyncio.create_task(removal.keep_trying())
    async with asyncio.timeout(60):
        while await blobs.names():
            await asyncio.sleep(0.02)
    trying.cancel()
    await removal.delete(PAYLOAD)  # gone is gone
