"""Files that the kernel sends, to readers of all kinds, over real sockets."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.server import ServerState

from edif.core.limits import MIB, SendFiles
from edif.gateway.connections import ConnectionLimits, Door, GuardedConfig, GuardedHttp
from edif.gateway.rates import Pace
from edif.gateway.sending import EXTENSION, Sender

CONTENT = os.urandom(MIB) * 16  # more than the kernel holds of a connection
PATIENCE_S = 30.0


class Served(SimpleNamespace):
    """A server of one file. ``/START-END`` answers with those bytes, ``/short`` with more than there are."""

    port: int
    listener: Any
    config: GuardedConfig
    state: ServerState

    async def idle(self) -> None:
        """Return when nothing is being sent, and no descriptor is kept for it."""
        async with asyncio.timeout(PATIENCE_S):
            while self.config.sender._parts or self.state.tasks:
                await asyncio.sleep(0.01)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "file").write_bytes(CONTENT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = scope["path"].strip("/")
        start, end = (0, len(CONTENT) + 1) if asked == "short" else map(int, asked.split("-"))
        assert EXTENSION in scope["extensions"]
        headers = [(b"content-length", str(end - start).encode())]
        with (tmp_path / "file").open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(
                {"type": EXTENSION, "file": file, "offset": start, "count": end - start, "more_body": False}
            )

    limits = ConnectionLimits(
        header_timeout_s=60,
        stall_timeout_s=60,
        body_bytes_per_s=1,
        header_bytes=10_000,
        connections=100,
        connections_per_address=100,
    )
    config = GuardedConfig(
        app,
        Door(limits, Pace(1e6)),
        SendFiles.ALWAYS,
        log_config=None,
        lifespan="off",
        access_log=False,
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: GuardedHttp(config, state, {}), "127.0.0.1", 0
    )
    listener = server.sockets[0]
    yield Served(port=listener.getsockname()[1], listener=listener, config=config, state=state)
    server.close()


def request(start: int, end: int) -> bytes:
    return f"GET /{start}-{end} HTTP/1.1\r\nhost: here\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return await reader.readexactly(int(size.split(b":")[1]))


async def fetched(served: Served, start: int, end: int) -> bytes:
    reader, writer = await served.open()
    writer.write(request(start, end))
    body = await answer(reader)
    writer.close()
    return body


async def test_many_readers_get_what_they_asked_for(served: Served) -> None:
    asked = [(number * 1000, len(CONTENT) - number * 777) for number in range(4)]
    async with asyncio.timeout(PATIENCE_S):
        got = await asyncio.gather(*(fetched(served, *each) for each in asked))
    assert all(body == CONTENT[start:end] for body, (start, end) in zip(got, asked, strict=True))
    await served.idle()


async def test_requests_that_are_sent_ahead_are_answered_in_order(served: Served) -> None:
    asked = [(0, 10 * MIB), (5, 5), (7, 8), (MIB, 9 * MIB + 1)]
    reader, writer = await served.open()
    writer.write(b"".join(request(*each) for each in asked))
    async with asyncio.timeout(PATIENCE_S):
        for start, end in asked:
            assert await answer(reader) == CONTENT[start:end]
    writer.close()


async def test_a_reader_that_does_not_read_holds_up_nobody(served: Served) -> None:
    _, writer = await served.open()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request(0, len(CONTENT)))
    async with asyncio.timeout(PATIENCE_S):
        assert await fetched(served, 0, len(CONTENT)) == CONTENT
        assert await fetched(served, 0, len(CONTENT)) == CONTENT
        while len(served.config.sender._parts) > 1:  # of the last one it hears a turn later than its reader
            await asyncio.sleep(0.01)
    assert len(served.config.sender._parts) == 1
    writer.transport.abort()
    await served.idle()


async def test_the_kernel_ends_readers_that_stop(served: Served) -> None:
    served.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    _, writer = await served.open()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request(0, len(CONTENT)))
    async with asyncio.timeout(PATIENCE_S):
        while not served.config.sender._parts:
            await asyncio.sleep(0.01)
    await served.idle()
    writer.transport.abort()


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reader_that_leaves_is_forgotten_without_a_word(
    served: Served, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = _open_files()
    for _ in range(3):
        reader, writer = await served.open()
        writer.write(request(0, len(CONTENT)))
        await reader.readexactly(1000)
        if reset:
            linger = b"\x01\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    await served.idle()
    await asyncio.sleep(0.05)  # transports close in the loop's next turns
    assert _open_files() <= before
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_what_is_shorter_than_told_ends_the_connection(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(b"GET /short HTTP/1.1\r\nhost: here\r\n\r\n")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        async with asyncio.timeout(PATIENCE_S):
            await answer(reader)
    writer.close()
    await served.idle()


async def test_an_answer_that_is_cut_short_by_the_gateways_end_ends_its_connection(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(request(0, len(CONTENT)))
    await reader.readexactly(1000)
    for task in served.state.tasks:
        task.cancel()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        async with asyncio.timeout(PATIENCE_S):
            await reader.readexactly(len(CONTENT))
    writer.close()
    await served.idle()


@pytest.mark.parametrize(
    ("to", "scheme", "reader", "offered"),
    [
        (SendFiles.AUTO, "http", "192.0.2.7", True),
        (SendFiles.AUTO, "http", "2001:db8::7", True),
        (SendFiles.AUTO, "http", "127.0.0.1", False),
        (SendFiles.AUTO, "http", "::1", False),
        (SendFiles.ALWAYS, "http", "127.0.0.1", True),
        (SendFiles.ALWAYS, "https", "192.0.2.7", False),
        (SendFiles.NEVER, "http", "192.0.2.7", False),
    ],
)
def test_it_is_offered_to_those_whom_it_serves(
    to: SendFiles, scheme: str, reader: str, offered: bool
) -> None:
    def app() -> None: ...

    cycle: Any = SimpleNamespace(scope={"scheme": scheme, "client": (reader, 1)})
    assert (Sender(to).offered(app, cycle) is not app) == offered
