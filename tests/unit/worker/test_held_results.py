"""For how long an agent sends a result again to a gateway that goes away in the middle of it: a real socket that follows a script."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from edif.core import errors
from edif.worker import transfer
from edif.worker.transfer import HttpTransfer, TransferFailed

SIZE = 1000
FULL, BREAKS_OFF, TAKES = "its disk is full", "breaks off", "takes it"
_ANSWERS = {
    FULL: (507, json.dumps({"code": errors.STORAGE_LOW.code}).encode()),
    TAKES: (201, b""),
}


@asynccontextmanager
async def gateway(script: Iterable[str]) -> AsyncIterator[tuple[str, list[str]]]:
    """Its address, and what of the script is still to come."""
    left = list(script)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(SIZE)
        if (does := left.pop(0)) != BREAKS_OFF:
            status, body = _ANSWERS[does]
            writer.write(
                b"HTTP/1.1 %d x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(body))
            )
            writer.write(body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/blob", left


async def sent(script: Iterable[str], folder: Path) -> list[str]:
    async with gateway(script) as (url, left), httpx.AsyncClient() as client:
        spooled = HttpTransfer(client, folder / "spool", hold_s=60.0).spool("result", url)
        spooled.file.path.write_bytes(b"r" * SIZE)
        try:
            async with asyncio.timeout(30):
                assert (await spooled.commit()).size == SIZE
        finally:
            assert not spooled.file.path.exists()
        return left


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_SEND_AGAIN_S", (0.0,))


@pytest.mark.parametrize(
    "script",
    [
        [FULL] * 5 + [BREAKS_OFF, FULL, TAKES],
        [BREAKS_OFF] * 3 + [TAKES],
        [BREAKS_OFF] * 3 + [FULL] + [BREAKS_OFF] * 3 + [TAKES],
    ],
    ids=["after it was held for long", "a few times in a row", "as often again after an answer"],
)
async def test_who_breaks_off_now_and_then_is_sent_it_again(script: list[str], tmp_path: Path) -> None:
    assert await sent(script, tmp_path) == []


async def test_who_breaks_off_every_time_is_not(tmp_path: Path) -> None:
    with pytest.raises(TransferFailed, match="the result cannot be sent"):
        await sent([BREAKS_OFF] * 5, tmp_path)
