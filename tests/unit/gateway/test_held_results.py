"""What an agent does with a result for which the gateway has no room: real routes, a real disk, no socket between them."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edif.blobs.file_blobs import FileBlobs
from edif.blobs.links import LinkSigner
from edif.blobs.store import payload_name, result_name
from edif.core import errors
from edif.core.errors import JobFailed
from edif.core.limits import MIB
from edif.worker import transfer
from edif.worker.transfer import HttpTransfer, Spooled, TransferFailed
from tests.unit.blobs.factories import chunks_of
from tests.unit.helpers import fill

NAME = result_name("j1", 1)
PAYLOAD = payload_name("j1")
ROOM = 6 * MIB


@pytest.fixture
def disk(small_disk: Path) -> Iterator[Path]:
    """The gateway's: large enough to be not full without a result, and too small for some."""
    subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(small_disk)], check=True)
    return small_disk


@pytest.fixture
def blobs(disk: Path) -> FileBlobs:
    return FileBlobs(disk / "blobs")


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(transfer, "_SEND_AGAIN_S", (0.01,))
    return tmp_path / "spool"


def a_result(gateway: httpx.AsyncClient, spool: Path, size: int = MIB, hold_s: float = 60.0) -> Spooled:
    link = LinkSigner(b"link key").path("put", NAME, time.time() + 60)
    spooled = HttpTransfer(gateway, spool, hold_s).spool(NAME, link)
    spooled.file.path.write_bytes(b"r" * size)
    return spooled


async def test_result_is_held_while_the_gateways_disk_is_full(
    gateway: httpx.AsyncClient, spool: Path, disk: Path, blobs: FileBlobs
) -> None:
    filler = fill(disk)
    spooled = a_result(gateway, spool)
    sending = asyncio.create_task(spooled.commit())
    await asyncio.wait([sending], timeout=0.3)
    assert not sending.done()
    assert spooled.file.path.exists()
    filler.unlink()
    async with asyncio.timeout(30):
        assert (await sending).size == MIB
    assert await blobs.size(NAME) == MIB
    assert list(spool.iterdir()) == []


async def test_disk_that_is_freed_just_when_a_result_met_it_full_takes_the_result(
    gateway: httpx.AsyncClient, spool: Path, disk: Path, blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler, free_bytes = fill(disk), blobs.free_bytes

    def freed_just_now() -> int:
        filler.unlink(missing_ok=True)
        return free_bytes()

    monkeypatch.setattr(blobs, "free_bytes", freed_just_now)
    assert (await a_result(gateway, spool).commit()).size == MIB
    assert await blobs.size(NAME) == MIB


async def test_result_that_is_itself_too_large_for_the_disk_ends_its_job_at_once(
    gateway: httpx.AsyncClient, spool: Path
) -> None:
    with pytest.raises(JobFailed) as failed:
        await a_result(gateway, spool, size=ROOM + MIB).commit()
    assert failed.value.kind is errors.STORAGE_FULL
    assert list(spool.iterdir()) == []


async def test_result_is_held_for_so_long_and_no_longer(
    gateway: httpx.AsyncClient, spool: Path, disk: Path
) -> None:
    fill(disk)
    with pytest.raises(JobFailed) as failed:
        await a_result(gateway, spool, hold_s=0.1).commit()
    assert failed.value.kind is errors.STORAGE_FULL
    assert list(spool.iterdir()) == []


async def test_result_that_is_held_goes_when_its_attempt_is_cancelled(
    gateway: httpx.AsyncClient, spool: Path, disk: Path
) -> None:
    fill(disk)
    sending = asyncio.create_task(a_result(gateway, spool).commit())
    await asyncio.wait([sending], timeout=0.3)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert list(spool.iterdir()) == []


@contextmanager
def away(gateway: httpx.AsyncClient) -> Iterator[None]:
    there, gateway._transport = gateway._transport, httpx.AsyncHTTPTransport()
    gateway.base_url = "http://127.0.0.1:9"
    try:
        yield
    finally:
        gateway._transport, gateway.base_url = there, httpx.URL("http://127.0.0.1")


async def still_waits(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task], timeout=0.3)
    assert not task.done()


@pytest.mark.parametrize("full", [False, True])
async def test_result_is_held_while_the_gateway_is_away(
    gateway: httpx.AsyncClient, spool: Path, disk: Path, full: bool
) -> None:
    """It is started again, or another follows it: the attempt is on record."""
    filler = fill(disk) if full else None
    sending = asyncio.create_task(a_result(gateway, spool).commit())
    if filler is not None:
        await still_waits(sending)
    with away(gateway):
        await still_waits(sending)
        with pytest.raises(TransferFailed, match="cannot be sent"):
            await a_result(gateway, spool, hold_s=0).commit()
    if filler is not None:
        filler.unlink()
    async with asyncio.timeout(30):
        assert (await sending).size == MIB


async def test_payload_is_waited_for_while_the_gateway_is_away(
    gateway: httpx.AsyncClient, spool: Path, blobs: FileBlobs
) -> None:
    await blobs.put(PAYLOAD, chunks_of(b"code"), limit_bytes=10)
    link = LinkSigner(b"link key").path("get", PAYLOAD, time.time() + 60)
    with away(gateway):
        fetching = asyncio.create_task(HttpTransfer(gateway, spool, 60.0).fetch(PAYLOAD, link))
        await still_waits(fetching)
        with pytest.raises(TransferFailed, match="cannot be fetched"):
            await HttpTransfer(gateway, spool, 0).fetch(PAYLOAD, link)
    async with asyncio.timeout(30):
        fd = await fetching
    with open(fd, "rb") as file:  # type: ignore[call-overload]  # noqa: PTH123
        assert file.read() == b"code"


async def test_gateway_that_breaks_off_every_time_is_not_asked_for_ever(
    gateway: httpx.AsyncClient, spool: Path, disk: Path
) -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    asked: list[bytes] = []
    server = await asyncio.start_server(breaks_off, "127.0.0.1", 0)
    link = LinkSigner(b"link key").path("get", PAYLOAD, time.time() + 60)
    async with server:
        with away(gateway):
            gateway.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(TransferFailed, match="cannot be fetched"):
                await HttpTransfer(gateway, spool, 60.0).fetch(PAYLOAD, link)
    assert len(asked) == 4
