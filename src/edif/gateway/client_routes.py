"""The routes of the nnsight 0.8 client: ``docs/protocol.md`` describes each. Handing in a job is in ``submission.py``."""

import time
from functools import partial
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from edif.core import errors
from edif.core.errors import AuthRefused, Refused, StoreUnavailable
from edif.core.job import ClientStatus
from edif.core.users import Identity
from edif.gateway import submission
from edif.gateway.auth import KEY_HEADER
from edif.gateway.callers import caller
from edif.gateway.description import Answer, Asks, Operation, Parameter
from edif.gateway.edge import Edge, base_url, edge_of, json_answer, refuse_socket
from edif.gateway.subscribers import Subscriber
from edif.models.model_key import format_model_key
from edif.wire import client_protocol
from edif.wire.client_protocol import StatusFrame, encode_frame
from edif.wire.packed import READS, READS_HEADER


async def ping(_: Request) -> Response:
    return JSONResponse("pong")


async def subscribe(socket: WebSocket) -> None:
    edge = edge_of(socket)
    try:
        identity = await edge.auth.identify(socket)
    except (Refused, StoreUnavailable) as error:
        await refuse_socket(socket, error)
        return
    await socket.accept()
    subscriber = edge.subscribers.open(identity.name)
    try:
        await socket.send_text(msgspec.json.encode({"session_id": subscriber.id}).decode())
        await subscriber.serve(socket, partial(_follow, edge, subscriber, base_url(socket)))
    finally:
        edge.subscribers.close(subscriber)


async def _follow(edge: Edge, subscriber: Subscriber, url: str, text: str) -> None:
    """A client that came back names the jobs of which it wants to hear on this socket."""
    for job_id in client_protocol.parse_follow(text):
        await edge.auth.turn(subscriber.owner)
        subscriber.tell(await edge.fabric.jobs.follow(job_id, subscriber, url))


def _is_packed(frame: StatusFrame) -> bool:
    return frame.status is ClientStatus.COMPLETED and bool((frame.meta or {}).get("packed"))


async def response(request: Request) -> Response:
    edge = edge_of(request)
    identity = await edge.auth.identify(request)
    job = await edge.fabric.jobs.find(request.path_params["job_id"], identity)
    frame = await edge.fabric.jobs.status(job, base_url(request))
    if _is_packed(frame) and request.headers.get(READS_HEADER) != READS:
        unread = Refused(
            errors.RESULT_PACKED, "This job's result is packed, which nnsight's own client cannot read."
        )
        frame = StatusFrame(job.id, ClientStatus.ERROR, unread.detail, meta=frame.meta)
    return json_answer(encode_frame(frame))


async def status(request: Request) -> Response:
    edge = await _open_route(request)
    deployments = {}
    for row in edge.fabric.overview.models():
        key = format_model_key(row["model"], row["revision"], row["task"], row["trust_remote_code"])
        for replica in range(max(row["replicas"], 1)):
            deployments[f"{row['model']}#{replica}"] = {
                # COLD models are not listed by the client, though a request brings them up: WARM says so.
                "deployment_level": "HOT" if row["replicas"] else "WARM",
                "application_state": row["state"],
                "model_key": key,
                "repo_id": row["model"],
                "task": row["task"],
                "revision": row["revision"],
                "trust_remote_code": row["trust_remote_code"],
            }
    return json_answer(msgspec.json.encode({"deployments": deployments}))


async def env(request: Request) -> Response:
    edge = await _open_route(request)
    return json_answer(msgspec.json.encode(edge.fabric.overview.environment()))


async def whoami(request: Request) -> Response:
    edge = edge_of(request)
    identity: Identity | None
    try:
        identity = await edge.auth.identify(request)
    except AuthRefused:
        if request.headers.get(KEY_HEADER) is None:
            raise
        identity = None  # the client's word for an unknown key is email None
    if identity is None:
        return JSONResponse({"email": None, "tags": []})
    return JSONResponse({"email": identity.email or identity.name, "tags": [identity.role.value]})


async def _open_route(request: Request) -> Edge:
    """A route that the stock client calls without a key: open and rate-limited, or closed by the operator."""
    edge = edge_of(request)
    if not edge.config.public_status:
        await edge.auth.identify(request)
        return edge
    edge.open_routes.take(caller(request, edge.config.trusted_proxies), time.monotonic())
    return edge


class DeploymentView(msgspec.Struct):
    deployment_level: Literal["HOT", "WARM"]
    application_state: Literal["RUNNING", "DEPLOYING", "NOT_STARTED"]
    model_key: str
    repo_id: str
    task: str
    revision: str | None
    trust_remote_code: bool


class Deployments(msgspec.Struct):
    deployments: dict[str, DeploymentView]


class Environment(msgspec.Struct):
    python_version: str
    packages: dict[str, str]


class WhoAmI(msgspec.Struct):
    email: str | None
    tags: list[str]


# Plain routes: these handlers read the request themselves, and /request is the one that is in a hurry.
routes: list[BaseRoute] = [
    Route("/ping", ping),
    WebSocketRoute("/subscribe", subscribe),
    Route("/request", submission.submit, methods=["POST"]),
    Route("/response/{job_id}", response),
    Route("/status", status),
    Route("/env", env),
    Route("/whoami", whoami),
]

described = [
    Operation("GET", "/ping", "Whether anybody answers.", Asks.ANYBODY, (Answer("Yes.", Literal["pong"]),)),
    submission.described,
    Operation(
        "GET",
        "/response/{job_id}",
        "A job's last status.",
        Asks.KEY,
        (Answer("The status; `data` is a link to the result once there is one.", StatusFrame),),
        parameters=(
            Parameter(
                READS_HEADER, f"`{READS}`: the client reads packed results.", {"type": "string"}, "header"
            ),
        ),
        fails=(errors.JOB_UNKNOWN, errors.RESULT_GONE, errors.RESULT_PACKED, *errors.BLOBS_AWAY),
    ),
    Operation(
        "GET",
        "/status",
        "Which models are served.",
        Asks.ANYBODY_OR_KEY,
        (Answer("By model and replica.", Deployments),),
    ),
    Operation(
        "GET",
        "/env",
        "What the workers run.",
        Asks.ANYBODY_OR_KEY,
        (Answer("Python and packages.", Environment),),
    ),
    Operation(
        "GET", "/whoami", "Whose key this is.", Asks.KEY, (Answer("`email` is null if nobody's.", WhoAmI),)
    ),
]
