"""A small reverse proxy on loopback, HTTP and WebSocket alike, that strips a path prefix and can be slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class PrefixProxy:
    """Set ``upstream`` before the first request.

    Attributes:
        bytes_per_s: how fast each connection passes bytes on to the upstream, None for as fast as it can.
        passed: bytes passed on to the upstream until now.
        silent: whether everything is swallowed, both ways, and no end hears why: as when a machine or a line vanishes.
    """

    url: str
    prefix: str
    upstream: str = ""
    connections: set[Any] = field(default_factory=set)
    bytes_per_s: float | None = None
    passed: int = 0
    silent: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: its first head is rewritten, the rest passes as it is."""
        self.connections.add(asyncio.current_task())
        try:
            # A cancelled task would be reported.
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if self.silent:
            await reader.read()  # until the client gives up
            return
        method, path, rest = head.split(b" ", 2)
        if not path.startswith(self.prefix.encode()):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        if b"upgrade: websocket" not in head.lower():
            # One request per connection, so that no second head passes unchanged.
            rest = rest.replace(b"Connection: keep-alive", b"Connection: close").replace(
                b"connection: keep-alive", b"connection: close"
            )
        address = urlsplit(self.upstream)
        up_reader, up_writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            up_writer.write(b" ".join((method, path[len(self.prefix) :] or b"/", rest)))
            await asyncio.gather(self._pass_up(reader, up_writer), self._pass_down(up_reader, writer))
        finally:
            up_writer.close()

    async def _pass_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(16384):
                if self.silent:
                    continue
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                writer.write(data)
                await writer.drain()
                self.passed += len(data)
            self._close(writer)

    async def _pass_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.silent:
                    writer.write(data)
                    await writer.drain()
            self._close(writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        if not self.silent:
            writer.close()


@asynccontextmanager
async def prefix_proxy(prefix: str) -> AsyncIterator[PrefixProxy]:
    proxy = PrefixProxy("", prefix)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}"
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.connections:
            task.cancel()
        await asyncio.gather(*proxy.connections, return_exceptions=True)
        await asyncio.sleep(0)  # lets the closed transports go
