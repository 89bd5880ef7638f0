"""Parts of files that the kernel sends by itself, without their bytes passing through this process.

Applications ask for it as the ASGI extension ``http.response.zerocopysend`` has it; it is offered on plain connections only, for TLS
has to see the bytes. One thread serves all readers, each as far as its socket has room: a reader that does not read costs nothing,
and a file that has to come from the disk first delays other downloads, never the loop.
"""

import asyncio
import errno
import os
import select
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from edif.core.limits import SendFiles

EXTENSION = "http.response.zerocopysend"

_AT_ONCE_BYTES = 2**20  # to one reader, before the next one's turn
_OF_THE_FILE = frozenset(
    {errno.EIO, errno.EINVAL, errno.ESTALE}
)  # all else that sendfile(2) says is of the connection

Send = Callable[[Any], Awaitable[None]]


class Sender:
    """One for all connections of a gateway. Its thread is there while something is sent.

    Args:
        to: a reader on the same machine gets bytes faster from a copy: it would be the first to fetch them from memory.
    """

    def __init__(self, to: SendFiles) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._room = select.epoll() if hasattr(select, "epoll") else None
        self._parts: dict[int, _Part] = {}
        """What is being sent, by the descriptor of its socket."""

    def offered(self, app: Any, cycle: RequestResponseCycle) -> Any:
        """The application, which may answer this request with parts of files."""
        if self._room is None or cycle.scope["scheme"] != "http" or not self._serves(cycle.scope["client"]):
            return app

        async def offering(scope: Any, receive: Any, send: Send) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == EXTENSION:
                    await self._answer(cycle, message)
                else:
                    await send(message)

            await app({**scope, "extensions": {EXTENSION: {}}}, receive, sending)

        return offering

    def _serves(self, reader: tuple[str, int] | None) -> bool:
        if self._to is not SendFiles.AUTO:
            return self._to is SendFiles.ALWAYS
        return reader is not None and not ip_address(reader[0]).is_loopback

    async def _answer(self, cycle: RequestResponseCycle, message: Any) -> None:
        count = message["count"]
        if count > cycle.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        await _written(cycle)
        if cycle.disconnected or cycle.transport.is_closing():
            return
        try:
            await self._sent(cycle.transport, message["file"].fileno(), message["offset"], count)
        except BaseException as error:
            cycle.transport.abort()  # who reads it must not take what came for all of it
            if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
                cycle.disconnected = True  # as uvicorn will hear in a moment
                return
            raise
        cycle.expected_content_length -= count
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": message["more_body"]})

    async def _sent(self, transport: asyncio.Transport, file: int, at: int, count: int) -> None:
        """Return when all of it is the kernel's.

        Raises:
            OSError: the connection has ended, or the file cannot be read.
        """
        # The thread may be at it for a moment longer than this coroutine: it has descriptors of its own.
        out = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        part = _Part(out, os.dup(file), at, at + count, asyncio.get_running_loop().create_future())
        self._begin(part)
        try:
            await part.ended
        except asyncio.CancelledError:
            with self._lock, suppress(OSError):  # it may have ended by itself
                out.shutdown(socket.SHUT_RDWR)
            raise

    def _begin(self, part: "_Part") -> None:
        assert self._room is not None
        with self._lock:
            idle = not self._parts
            self._parts[part.out.fileno()] = part
            self._room.register(part.out.fileno(), select.EPOLLOUT)
        if idle:
            threading.Thread(target=self._run, name="edif send", daemon=True).start()

    def _run(self) -> None:
        assert self._room is not None
        while True:
            for out, _ in self._room.poll():
                if self._parts[out].send():
                    with self._lock:
                        self._room.unregister(out)
                        self._parts.pop(out).close()
                        if not self._parts:
                            return


@dataclass(slots=True)
class _Part:
    """Bytes of a file on their way to a socket.

    Attributes:
        out, file: its own.
        at: which byte is next.
        end: which one is no longer to be sent.
        ended: what the loop waits for.
    """

    out: socket.socket
    file: int
    at: int
    end: int
    ended: asyncio.Future[None]

    def send(self) -> bool:
        """As far as there is room; whether it has ended, well or not. In the thread."""
        try:
            self._send()
        except BlockingIOError:
            return False
        except OSError as error:
            self._tell(error)
            return True
        if self.at < self.end:
            return False
        self._tell(None)
        return True

    def _send(self) -> None:
        if self.at == self.end:
            return
        size = min(self.end - self.at, _AT_ONCE_BYTES)
        sent = os.sendfile(self.out.fileno(), self.file, self.at, size)
        if not sent:
            raise OSError(errno.EIO, f"the file ends at byte {self.at} of {self.end}")
        self.at += sent

    def close(self) -> None:
        self.out.close()
        os.close(self.file)

    def _tell(self, error: OSError | None) -> None:
        def tell() -> None:
            if self.ended.done():
                return  # nobody waits any more
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)

        with suppress(RuntimeError):  # the loop has ended
            self.ended.get_loop().call_soon_threadsafe(tell)


async def _written(cycle: RequestResponseCycle) -> None:
    """Return when everything that was written before is the kernel's, or the connection has ended."""
    cycle.transport.set_write_buffer_limits(high=0)
    try:
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
    finally:
        cycle.transport.set_write_buffer_limits()
