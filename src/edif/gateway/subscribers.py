"""Open ``/subscribe`` sockets, by session id. A frame for a socket that is gone is dropped: the job's status is
kept elsewhere, and the client can ask for it.
"""

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from edif.core.ids import SessionId, UserName, new_session_id
from edif.wire.client_protocol import StatusFrame, encode_frame

_MAX_WAITING_FRAMES = 1000


class Subscriber:
    """One socket, with the frames that wait to be sent on it."""

    def __init__(self, owner: UserName) -> None:
        self.id = new_session_id()
        self.owner = owner
        self._frames: asyncio.Queue[bytes | str] = asyncio.Queue(_MAX_WAITING_FRAMES)

    def tell(self, frame: StatusFrame) -> None:
        self.push(encode_frame(frame).decode())

    def push(self, frame: bytes | str) -> None:
        """Queue a frame. A reader too slow for a thousand frames loses the newest; its poll still works."""
        if not self._frames.full():
            self._frames.put_nowait(frame)

    async def serve(self, socket: WebSocket) -> None:
        """Send frames until the client leaves."""
        sender = asyncio.create_task(self._send(socket))
        try:
            while True:
                # The client never speaks; this notices that it left.
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
        finally:
            sender.cancel()
            await asyncio.wait([sender])

    async def _send(self, socket: WebSocket) -> None:
        while True:
            frame = await self._frames.get()
            if socket.application_state is not WebSocketState.CONNECTED:
                return
            try:
                await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
            except (WebSocketDisconnect, RuntimeError):
                return


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
