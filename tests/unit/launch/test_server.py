"""The real server on a real socket: what happens to a status socket whose client does not read."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from edif.core import errors
from edif.core.errors import StoreUnavailable
from edif.core.ids import ANONYMOUS
from edif.core.limits import MIB
from edif.gateway.rates import Pace
from edif.gateway.subscribers import Subscriber
from edif.launch.server import listen, make_server
from edif.settings import Settings

PATIENCE_S = 60.0
FRAME = b"x" * MIB


@dataclass
class StatusSockets:
    """A server with nothing but status sockets; ``left`` tells when the one socket is done with."""

    port: int = 0
    subscriber: Subscriber = field(default_factory=lambda: Subscriber(ANONYMOUS))
    heard: list[str] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def route(self, socket: WebSocket) -> None:
        await socket.accept()
        self.opened.set()
        await self.subscriber.serve(socket, self._hear)
        self.left.set()

    async def _hear(self, text: str) -> None:
        if text == "store":
            raise StoreUnavailable(errors.STORE_UNREACHABLE, "The database does not answer.")
        self.heard.append(text)


@asynccontextmanager
async def status_sockets(folder: Path) -> AsyncIterator[StatusSockets]:
    settings = Settings(data=folder, port=0, stall_timeout_s=1)
    sockets = StatusSockets()
    with listen(settings) as sock:
        sockets.port = sock.getsockname()[1]
        app = Starlette(routes=[WebSocketRoute("/subscribe", sockets.route)])
        server = make_server(settings, app, Pace(1e6), None)
        serving = asyncio.create_task(server.serve([sock]))
        try:
            yield sockets
        finally:
            server.should_exit = True
            await serving


async def all_frames(client: ClientConnection) -> tuple[int, int | None]:
    """How many came until the server closed, and the code with which it did."""
    received = 0
    try:
        while await asyncio.wait_for(client.recv(), PATIENCE_S):
            received += 1
    except ConnectionClosed as closed:
        return received, closed.rcvd.code if closed.rcvd else None
    raise AssertionError("an empty frame came")


async def test_frames_for_a_client_that_does_not_read_are_bounded_and_it_is_told_to_poll(
    tmp_path: Path,
) -> None:
    async with status_sockets(tmp_path) as sockets:
        address = f"ws://127.0.0.1:{sockets.port}/subscribe"
        async with connect(address, max_size=None, compression=None, proxy=None) as client:
            await sockets.opened.wait()
            for _ in range(40):
                sockets.subscriber.push(FRAME)
            assert sockets.subscriber._frames.qsize() * MIB <= 8 * MIB
            received, code = await all_frames(client)
            assert code == 1013
            assert received < 40
        await asyncio.wait_for(sockets.left.wait(), PATIENCE_S)


async def test_one_large_frame_is_always_sent(tmp_path: Path) -> None:
    async with status_sockets(tmp_path) as sockets:
        address = f"ws://127.0.0.1:{sockets.port}/subscribe"
        async with connect(address, max_size=None, compression=None, proxy=None) as client:
            sockets.subscriber.push(FRAME * 20)
            assert len(await asyncio.wait_for(client.recv(), PATIENCE_S)) == 20 * MIB


async def test_what_a_client_says_is_heard_until_it_cannot_be_answered(tmp_path: Path) -> None:
    async with status_sockets(tmp_path) as sockets:
        address = f"ws://127.0.0.1:{sockets.port}/subscribe"
        async with connect(address, proxy=None) as client:
            for said in ("one", b"bytes", "two", "store"):
                await client.send(said)
            await asyncio.wait_for(sockets.left.wait(), PATIENCE_S)
        assert sockets.heard == ["one", "", "two"]


async def test_a_status_socket_that_is_never_read_is_cut(tmp_path: Path) -> None:
    async with status_sockets(tmp_path) as sockets:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            client.connect(("127.0.0.1", sockets.port))
            client.sendall(
                b"GET /subscribe HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await asyncio.wait_for(sockets.opened.wait(), PATIENCE_S)
            for _ in range(8):
                sockets.subscriber.push(FRAME)
            await asyncio.wait_for(sockets.left.wait(), PATIENCE_S)


async def test_what_the_end_cuts_short_is_not_logged_as_a_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began: asyncio.Queue[None] = asyncio.Queue()

    async def route(request: Request) -> None:
        began.put_nowait(None)
        if request.url.path == "/fault":
            raise ZeroDivisionError
        await asyncio.Event().wait()

    settings = Settings(data=tmp_path, port=0)
    with listen(settings) as sock:
        server = make_server(settings, Starlette(routes=[Route("/{path}", route)]), Pace(1e6), None)
        server.config.timeout_graceful_shutdown = 0
        serving = asyncio.create_task(server.serve([sock]))
        connections = [await asyncio.open_connection(*sock.getsockname()) for _ in range(2)]
        for (_, writer), path in zip(connections, (b"fault", b"wait"), strict=True):
            writer.write(b"GET /" + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            await began.get()
        server.should_exit = True
        await serving
        for _, writer in connections:
            writer.close()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_the_process_may_open_as_many_descriptors_as_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        make_server(Settings(data=tmp_path, max_connections=1500), Starlette(), Pace(1e6), None)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(1500 + 512, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
