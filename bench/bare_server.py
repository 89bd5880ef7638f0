"""The least that the stock client needs, in one process: no records, no queue, no isolation, no limits.

It is the yardstick for what the fabric's durability and separation cost, and is used for nothing else.
Usage: ``python -m bench.bare_server PORT MODEL_FOLDER``.
"""

import asyncio
import json
import secrets
import sys
from typing import Any

import torch
import uvicorn
from nnsight.modeling.transformers import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing import globals as tracing_globals
from nnsight.tracing import tracer as tracing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

torch.set_num_threads(1)
sockets: dict[str, WebSocket] = {}
model: Any = None
objects: dict[str, Any] = {}
turn = asyncio.Lock()


def execute(blob: bytes, compress: bool) -> bytes:
    import io

    import zstandard

    tracing_globals.SOURCES.clear()
    tracing_globals.BLOCKS.clear()
    tracer = RequestModel.deserialize(blob, objects, compress)
    tracing.inc()
    try:
        tracer.execute(tracer.info.code)
        marked = tracing._saves()
        saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in marked}
        buffer = io.BytesIO()
        torch.save(saved, buffer)
    finally:
        tracing.dec()
    return zstandard.ZstdCompressor(level=1).compress(buffer.getvalue()) if compress else buffer.getvalue()


async def subscribe(socket: WebSocket) -> None:
    await socket.accept()
    session = secrets.token_hex(8)
    sockets[session] = socket
    await socket.send_text(json.dumps({"session_id": session}))
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError):
        sockets.pop(session, None)


async def request(request: Request) -> JSONResponse:
    form = await request.form()
    envelope = json.loads(str(form["data"]))
    blob = await form["blob"].read()  # type: ignore[union-attr]
    job = secrets.token_hex(8)
    asyncio.get_running_loop().create_task(run(job, envelope, blob))
    return JSONResponse({"id": job, "status": "RECEIVED", "description": ""})


async def run(job: str, envelope: dict[str, Any], blob: bytes) -> None:
    socket = sockets[envelope["session_id"]]
    async with turn:
        await socket.send_text(json.dumps({"id": job, "status": "RUNNING", "description": ""}))
        result = await asyncio.to_thread(execute, blob, envelope["compress"])
    await socket.send_bytes(ResponseModel(id=job, status=Status.COMPLETED, data=result).pickle())


def main() -> None:
    global model, objects
    model = TransformersModel(sys.argv[2], task="text-generation", dispatch=True, dtype=torch.float32)
    objects = model._remoteable_persistent_objects()
    app = Starlette(
        routes=[Route("/request", request, methods=["POST"]), WebSocketRoute("/subscribe", subscribe)]
    )
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
