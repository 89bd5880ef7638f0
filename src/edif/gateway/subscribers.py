"""Open ``/subscribe`` sockets, by session id. A frame for a socket that is gone is dropped: the job's status is
kept elsewhere, and the client can ask for it.

A socket whose frames pile up is closed with code 1013 rather than robbed of some of them: its client then sees that it
missed something, and polls.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from edif.core.errors import BlobsUnavailable, StoreUnavailable
from edif.core.ids import SessionId, UserName, new_session_id
from edif.core.limits import MIB
from edif.wire.client_protocol import StatusFrame, encode_frame

_MAX_WAITING_FRAMES = 1000
_MAX_WAITING_BYTES = 8 * MIB
_TRY_AGAIN_LATER = 1013


class Subscriber:
    """One socket, with the frames that wait to be sent on it."""

    def __init__(self, owner: UserName) -> None:
        self.id = new_session_id()
        self.owner = owner
        self._frames: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._waiting_bytes = 0
        self._overrun = asyncio.Event()

    def tell(self, frame: StatusFrame) -> None:
        self.push(encode_frame(frame).decode())

    def push(self, frame: bytes | str) -> None:
        """Queue a frame; one frame fits whatever its size, and what does not fit ends the socket."""
        full = (
            self._waiting_bytes + len(frame) > _MAX_WAITING_BYTES
            or self._frames.qsize() >= _MAX_WAITING_FRAMES
        )
        if full and not self._frames.empty():
            self._overrun.set()
        if not self._overrun.is_set():
            self._waiting_bytes += len(frame)
            self._frames.put_nowait(frame)

    async def serve(self, socket: WebSocket, hear: Callable[[str], Awaitable[None]]) -> None:
        """Send frames until the client leaves or is cut; what it says is heard by ``hear``."""
        tasks = [
            asyncio.create_task(self._send(socket)),
            asyncio.create_task(_until_gone(socket, hear)),
            asyncio.create_task(self._overrun.wait()),
        ]
        try:
            # The sender ends with its connection, which the second notices too.
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._overrun.is_set():
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(_TRY_AGAIN_LATER, "you read too slowly; poll for the rest")

    async def _send(self, socket: WebSocket) -> None:
        while True:
            frame = await self._frames.get()
            self._waiting_bytes -= len(frame)
            if socket.application_state is not WebSocketState.CONNECTED:
                return
            try:
                await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
            except (WebSocketDisconnect, RuntimeError):
                return


async def _until_gone(socket: WebSocket, hear: Callable[[str], Awaitable[None]]) -> None:
    """Hear what the client says, if it ever speaks, until it left or cannot be answered."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        try:
            await hear(message.get("text") or "")
        except (StoreUnavailable, BlobsUnavailable):
            return  # the client opens another socket, and asks again


class Subscribers:
    """All sessions of this gateway."""

    def __init__(self) -> None:
        self._by_id: dict[SessionId, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, owner: UserName) -> Subscriber:
        subscriber = Subscriber(owner)
        self._by_id[subscriber.id] = subscriber
        return subscriber

    def close(self, subscriber: Subscriber) -> None:
        self._by_id.pop(subscriber.id, None)

    def get(self, session_id: str, owner: UserName) -> Subscriber | None:
        """The session, if it is open and belongs to ``owner``."""
        subscriber = self._by_id.get(SessionId(session_id))
        return subscriber if subscriber is not None and subscriber.owner == owner else None

    def has(self, session_id: SessionId) -> Subscriber | None:
        return self._by_id.get(session_id)
