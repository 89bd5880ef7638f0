"""The older clients' socket, answered just far enough that they can show why they are refused.

nnsight 0.5 to 0.7 open a Socket.IO connection before they post, and show the post's ``detail``. So the
handshake succeeds, and ``POST /request`` refuses with the exact line that helps. Source: Engine.IO protocol
4 and Socket.IO protocol 5, as published by their project.
"""

import asyncio
import json
import secrets

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

router = APIRouter()

_OPEN_S = 60.0  # nobody is asked for a key here, and the post that is refused comes at once
_OPEN, _PING, _PONG, _CONNECT = "0", "2", "3", "40"


@router.websocket("/ws/socket.io/")
async def socket_io(socket: WebSocket) -> None:
    await socket.accept()
    handshake = {
        "sid": secrets.token_hex(10),
        "upgrades": [],
        "pingInterval": 25000,
        "pingTimeout": 60000,
        "maxPayload": 1000000,
    }
    await socket.send_text(_OPEN + json.dumps(handshake))
    try:
        async with asyncio.timeout(_OPEN_S):
            await _converse(socket)
    except (TimeoutError, WebSocketDisconnect, KeyError):
        return


async def _converse(socket: WebSocket) -> None:
    while True:
        packet = await socket.receive_text()
        if packet.startswith(_CONNECT):
            await socket.send_text(_CONNECT + json.dumps({"sid": secrets.token_hex(10)}))
        elif packet == _PING:
            await socket.send_text(_PONG)
