"""A result that is large beside every other bound, received in pieces: what it takes of memory, and that it is right."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import zstandard

from tests.sizes import SIZES
from tests.support.fabric import PATIENCE_S, Fabric, start_fabric
from tests.support.models import GPT2_ID
from tests.support.replay import Replayer

MIB = 2**20
SIZE = SIZES.large_result_mib * MIB
BESIDE = 64 * MIB
READY = (
    64 * MIB
)  # free memory that a process may have before its job comes; what a job uses of it is not counted
HEAD = 64 * 1024  # within it the numbers begin
DOWNLOADS = 8
GATEWAY_MIB = 200


@pytest.fixture(scope="module")
def fabric(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    running = start_fabric(
        tmp_path_factory.mktemp("large") / "data",
        *("--model", f"{GPT2_ID}={models[GPT2_ID]}", "--isolation", "sealed"),
        *("--job-memory-limit", str(SIZE + 1024 * MIB), "--result-limit", str(SIZE + MIB)),
        EDIF_PUSH_BYTES="1000",
        EDIF_SEND_FILES="always",  # as to readers elsewhere
    )
    running.wait_running(GPT2_ID)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(fabric: Fabric, blobs: Path) -> AsyncIterator[Replayer]:
    async with Replayer(fabric.url, blobs) as replayer:
        yield replayer


async def ended(client: Replayer, name: str) -> tuple[str, dict]:
    """The link to the result of this program, and what is told of it."""
    final = await client.poll(await client.submit(name))
    assert final["status"] == "COMPLETED", final["description"]
    return final["data"], final["meta"]


async def pieces(link: str) -> AsyncIterator[bytes]:
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S) as http,
        http.stream("GET", link) as answer,
    ):
        answer.raise_for_status()
        async for piece in answer.aiter_raw(MIB):
            yield piece


class Numbers:
    """Reads an archive of the numbers from 0 on, as it comes, and keeps none of it."""

    def __init__(self) -> None:
        self.right = 0
        self._rest = b""
        self._found = False

    def feed(self, piece: bytes) -> None:
        self._rest += piece
        if not self._found:
            at = self._rest.find(np.arange(64, dtype="<i8").tobytes())
            if at < 0:
                return
            assert at < HEAD
            self._found, self._rest = True, self._rest[at:]
        whole = min(len(self._rest) // 8, SIZE // 8 - self.right)
        read = np.frombuffer(self._rest, "<i8", whole)
        assert np.array_equal(read, np.arange(self.right, self.right + whole))
        self.right += whole
        self._rest = self._rest[whole * 8 :]


@pytest.mark.parametrize("name", ["vast.zst", "vast.raw"])
async def test_a_large_result_takes_little_memory_and_is_right(client: Replayer, name: str) -> None:
    link, meta = await ended(client, name)
    assert SIZE - READY < meta["peak_memory_bytes"] < SIZE + BESIDE
    numbers, digest = Numbers(), hashlib.sha256()
    unpack = zstandard.ZstdDecompressor().decompressobj().decompress if name == "vast.zst" else bytes
    received = 0
    async for piece in pieces(link):
        digest.update(piece)
        received += len(piece)
        numbers.feed(unpack(piece))
    assert (received, digest.hexdigest()) == (meta["result_bytes"], meta["result_sha256"])
    assert numbers.right == SIZE // 8


async def test_many_downloads_at_once_take_little_memory_of_the_gateway(
    fabric: Fabric, client: Replayer
) -> None:
    link, meta = await ended(client, "vast.raw")
    gateway = psutil.Process(fabric.pid("gateway"))
    most = 0

    async def download() -> int:
        nonlocal most
        received = 0
        async for piece in pieces(link):
            received += len(piece)
            if received % (16 * MIB) < len(piece):
                most = max(most, gateway.memory_full_info().uss)
        return received

    received = await asyncio.gather(*(download() for _ in range(DOWNLOADS)))
    assert received == [meta["result_bytes"]] * DOWNLOADS
    assert most < GATEWAY_MIB * MIB
