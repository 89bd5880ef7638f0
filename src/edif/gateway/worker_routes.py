"""Where node agents come in: the link, and the metadata of their models."""

import asyncio

import msgspec
import structlog
from fastapi import APIRouter, Request
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from edif import faults
from edif.core import errors
from edif.core.errors import Refused
from edif.faults import Point
from edif.gateway.description import BYTES, JSON, Answer, Asks, Operation, Parameter
from edif.gateway.edge import bounded_body, edge_of, refuse_socket
from edif.models.metadata import MAX_METADATA_BYTES
from edif.wire import link
from edif.wire.link import UPLOAD_HEADER

log = structlog.get_logger()

router = APIRouter(prefix="/edif/v1/worker")

_HELLO_TIMEOUT_S = 10.0


class FileNames(msgspec.Struct):
    files: list[str]


async def worker_link(socket: WebSocket) -> None:
    edge = edge_of(socket)
    try:
        edge.auth.check_worker(socket)
    except Refused as error:
        await refuse_socket(socket, error)
        return
    await socket.accept()
    outbox: asyncio.Queue[link.ToAgent] = asyncio.Queue()
    try:
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            hello = link.decode_to_gateway(await socket.receive_bytes())
    except (TimeoutError, msgspec.DecodeError, WebSocketDisconnect, KeyError) as error:
        log.warning("gateway.no_hello", reason=str(error))
        await socket.close()
        return
    if not isinstance(hello, link.Hello) or hello.version != link.LINK_VERSION:
        log.warning("gateway.other_link_version", hello=repr(hello)[:200])
        await socket.close(reason="this gateway speaks another version of the worker link")
        return
    left = edge.fabric.agent_joined(hello, outbox.put_nowait)
    sender = asyncio.create_task(_send(socket, outbox))
    try:
        while True:
            edge.fabric.heard(hello.agent, link.decode_to_gateway(await socket.receive_bytes()))
    except msgspec.DecodeError as error:
        log.warning("gateway.link_refused", agent=hello.agent, reason=str(error))
    except (WebSocketDisconnect, KeyError, RuntimeError):
        pass
    finally:
        left()
        sender.cancel()
        await asyncio.wait([sender])


async def _send(socket: WebSocket, outbox: "asyncio.Queue[link.ToAgent]") -> None:
    while True:
        message = await outbox.get()
        try:
            await socket.send_bytes(link.encode(message))
            if isinstance(message, link.RunAttempt):
                faults.point(Point.ATTEMPT_TOLD)
        except (WebSocketDisconnect, RuntimeError):
            return
        except Exception:
            log.exception("gateway.link_failed", kind=type(message).__name__)
            await socket.close(1011)  # the agent comes back, and is told what it needs
            return


link_routes: list[BaseRoute] = [WebSocketRoute(f"{router.prefix}/link", worker_link)]


@router.put("/hub/{repo:path}/files/{name:path}")
async def put_model_file(request: Request, repo: str, name: str) -> dict[str, int]:
    edge = edge_of(request)
    edge.auth.check_worker(request)
    body = b"".join([chunk async for chunk in bounded_body(request, MAX_METADATA_BYTES)])
    edge.hub.receive(repo, name, body, request.headers.get(UPLOAD_HEADER, ""))
    return {"size_bytes": len(body)}


@router.post("/hub/{repo:path}/files")
async def publish_model(request: Request, repo: str) -> dict[str, int]:
    edge = edge_of(request)
    edge.auth.check_worker(request)
    body = b"".join([chunk async for chunk in bounded_body(request, MAX_METADATA_BYTES)])
    try:
        names = msgspec.json.decode(body, type=FileNames).files
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(errors.REQUEST_INVALID, "The body is not a list of `files`.") from error
    edge.hub.publish(repo, names, request.headers.get(UPLOAD_HEADER, ""))
    edge.fabric.metadata_arrived(repo)
    return {"files": len(names)}


class Received(msgspec.Struct):
    size_bytes: int


class Published(msgspec.Struct):
    files: int


_UPLOAD = Parameter(UPLOAD_HEADER, "The upload that a file belongs to.", {"type": "string"}, "header")

described = [
    Operation(
        "PUT",
        "/edif/v1/worker/hub/{repo}/files/{name}",
        "Send one metadata file of a model.",
        Asks.WORKER,
        (Answer("It waits to be published.", Received),),
        fails=(errors.REQUEST_INVALID, errors.BODY_TOO_LARGE),
        parameters=(_UPLOAD,),
        takes=(BYTES, {}),
    ),
    Operation(
        "POST",
        "/edif/v1/worker/hub/{repo}/files",
        "Serve the files that were sent.",
        Asks.WORKER,
        (Answer("They are served.", Published),),
        fails=(errors.REQUEST_INVALID, errors.BODY_TOO_LARGE),
        parameters=(_UPLOAD,),
        takes=(JSON, msgspec.json.schema_components([FileNames])[1]["FileNames"]),
    ),
]
