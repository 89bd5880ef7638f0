"""A network between a client and a PostgreSQL server that fails at the worst moments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

_COMMIT = b"COMMIT\0"  # as it is asked for and as it is confirmed


class Cut(Enum):
    """When the connection that commits next is cut.

    Attributes:
        BEFORE_COMMIT: the commit does not reach the server.
        AFTER_COMMIT: the server has committed, and its answer does not come back.
        UNNOTICED: the commit does not reach the server, which does not hear either that its client has gone.
    """

    BEFORE_COMMIT = auto()
    AFTER_COMMIT = auto()
    UNNOTICED = auto()


@dataclass
class Cutter:
    """Made by :func:`cutter`.

    Attributes:
        url: of the database, through this network.
        next_cut: what becomes of the next commit; None once it was cut.
        down: whether new connections are refused and old ones cut at their next word.
    """

    url: str
    upstream: tuple[str, int]
    next_cut: Cut | None = None
    down: bool = False
    connections: set[Any] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.current_task())
        up_writer: asyncio.StreamWriter | None = None
        try:
            with suppress(ConnectionError, asyncio.CancelledError):  # a cancelled task would be reported
                if self.down:
                    return
                up_reader, up_writer = await asyncio.open_connection(*self.upstream)
                down = asyncio.create_task(_pass(up_reader, writer))
                cut = await self._pass_up(reader, up_writer)
                down.cancel()
                await asyncio.wait([down])
                if cut is Cut.AFTER_COMMIT:
                    await up_reader.readuntil(_COMMIT)
                writer.close()
                if cut is Cut.UNNOTICED:
                    await up_reader.read()  # until the server itself ends it
        finally:
            for each in (writer, up_writer):
                if each is not None:
                    each.close()

    async def _pass_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Cut | None:
        while data := await reader.read(65536):
            if self.down:
                return Cut.BEFORE_COMMIT
            cut = self.next_cut if _COMMIT in data else None
            if cut is not None:
                self.next_cut = None
            if cut in (None, Cut.AFTER_COMMIT):
                writer.write(data)
                await writer.drain()
            if cut is not None:
                return cut
        return None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def cutter(url: str) -> AsyncIterator[Cutter]:
    """A network before the database at this URL."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    made = Cutter("", (address.hostname, address.port))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = url.replace(f":{address.port}/", f":{server.sockets[0].getsockname()[1]}/")
    try:
        yield made
    finally:
        server.close()
        for task in made.connections:
            task.cancel()
        await asyncio.gather(*made.connections, return_exceptions=True)
        await asyncio.sleep(0)  # lets the closed transports go
