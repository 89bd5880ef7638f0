"""The routes of the nnsight 0.8 client: ``docs/protocol.md`` describes each."""

import time
from functools import partial
from typing import Any, Literal

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from edif.blobs.store import payload_name
from edif.core import errors
from edif.core.errors import AuthRefused, OverLimit, Refused, StoreUnavailable
from edif.core.ids import ModelId, new_job_id
from edif.core.job import ClientStatus, Job
from edif.core.limits import MIB
from edif.core.users import Identity
from edif.gateway.auth import KEY_HEADER
from edif.gateway.callers import caller
from edif.gateway.description import JSON, Answer, Asks, Operation, Parameter
from edif.gateway.edge import Edge, base_url, bounded_body, edge_of, json_answer, refuse_socket
from edif.gateway.subscribers import Subscriber
from edif.models.model_key import format_model_key
from edif.wire import client_protocol
from edif.wire.client_protocol import ZSTD_MAGIC, ClientVersions, Envelope, StatusFrame, encode_frame
from edif.wire.packed import READS, READS_HEADER
from edif.wire.zstd import declared_size

_ENVELOPE_BYTES = MIB
_CLOSE_REFUSED = 4401
_CLIENT_KEY_LENGTH = 100


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


async def request(request: Request) -> Response:
    edge = edge_of(request)
    notes = _check_client(request, edge)
    identity = await edge.auth.identify(request)
    client_key = _client_key(request)
    if client_key is not None:
        # What was accepted once is not refused later, however full queue, quota or disk are by now.
        known = await edge.fabric.jobs.sent_before(identity.name, client_key)
        if known is not None:
            return json_answer(encode_frame(await edge.fabric.jobs.status(known, base_url(request))))
    edge.fabric.jobs.check_quota(identity.name)  # before the body is read
    _check_space(edge)
    envelope, blob = await _read_form(request, edge)
    received = time.monotonic()
    spec = edge.fabric.catalogue.match(envelope.model_key, envelope.env).spec
    await edge.fabric.jobs.check_uses(envelope.edif.uses, identity.name)
    subscriber = None
    if envelope.session_id:
        subscriber = edge.subscribers.get(envelope.session_id, identity.name)
        if subscriber is None:
            raise Refused(errors.SESSION_UNKNOWN, "The request names a status socket that is not open.")
    job = Job(
        id=new_job_id(),
        owner=identity.name,
        model=ModelId(spec.id),
        model_key=envelope.model_key,
        compress=envelope.compress,
        env=envelope.env,
        extras=envelope.edif,
        payload_bytes=blob.size or 0,
        created_at=time.time(),
        client_key=client_key,
    )
    await _store_payload(edge, job, blob, compressed=envelope.compress)
    frame = await edge.fabric.jobs.accept(
        job, sender=identity.id, subscriber=subscriber, base_url=base_url(request), received=received
    )
    for note in notes:
        edge.fabric.jobs.note(job.id, note)
    return json_answer(encode_frame(frame))


def _check_client(request: Request, edge: Edge) -> list[str]:
    if "nnsight-model-key" in request.headers:
        raise client_protocol.too_old_client(request.headers.get("nnsight-version", ""))
    versions = ClientVersions(
        request.headers.get("nnsight-version", ""), request.headers.get("python-version", "")
    )
    return client_protocol.check_versions(versions, edge.fabric.overview.serving_python)


def _client_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > _CLIENT_KEY_LENGTH:
        raise Refused(
            errors.REQUEST_INVALID,
            f"The idempotency key has {len(key)} characters.",
            f"Use at most {_CLIENT_KEY_LENGTH}.",
        )
    return key


def _check_space(edge: Edge) -> None:
    free = edge.blobs.free_bytes()
    if free < edge.config.min_free_bytes:
        raise OverLimit(errors.STORAGE_LOW, f"The fabric has only {free / 2**20:.0f} MiB of disk left.")


async def _read_form(request: Request, edge: Edge) -> tuple[Envelope, UploadFile]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(errors.BODY_NOT_MULTIPART, "The request is not multipart/form-data with a boundary.")
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        # Fields would be decoded in it, and of the codecs that Python knows some take minutes for a megabyte.
        raise Refused(errors.BODY_NOT_MULTIPART, "The form is in another charset than UTF-8.")
    limit = edge.fabric.config.limits.payload_bytes + _ENVELOPE_BYTES
    parser = MultiPartParser(
        request.headers,
        bounded_body(request, limit),
        max_files=1,
        max_fields=4,
        max_part_size=_ENVELOPE_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(
            errors.BODY_TRUNCATED, f"The multipart body does not parse: {error.message}."
        ) from error
    except ClientDisconnect as error:
        raise Refused(errors.BODY_TRUNCATED, "The upload broke off.") from error
    text, blob = form.get("data"), form.get("blob")
    if not isinstance(text, str):
        raise Refused(errors.ENVELOPE_INVALID, "The request has no form field `data`.")
    if not isinstance(blob, UploadFile):
        raise Refused(errors.BODY_TRUNCATED, "The request has no file `blob`, or it broke off.")
    return client_protocol.parse_envelope(text), blob


async def _store_payload(edge: Edge, job: Job, blob: UploadFile, *, compressed: bool) -> None:
    limits = edge.fabric.config.limits
    if compressed:
        head = await blob.read(32)
        await blob.seek(0)
        if not head.startswith(ZSTD_MAGIC):
            raise Refused(errors.PAYLOAD_NOT_ZSTD, "The request says `compress`, but its blob is not zstd.")
        size = declared_size(head)
        if size is not None and size > limits.payload_expanded_bytes:
            raise OverLimit(
                errors.PAYLOAD_BOMB,
                f"The payload expands to {size / 2**20:.0f} MiB, more than the "
                f"{limits.payload_expanded_bytes / 2**20:.0f} MiB that this fabric takes.",
            )

    async def chunks() -> Any:
        while chunk := await blob.read(MIB):
            yield chunk

    await edge.blobs.put(payload_name(job.id), chunks(), limit_bytes=limits.payload_bytes)


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
    Route("/request", request, methods=["POST"]),
    Route("/response/{job_id}", response),
    Route("/status", status),
    Route("/env", env),
    Route("/whoami", whoami),
]

described = [
    Operation("GET", "/ping", "Whether anybody answers.", Asks.ANYBODY, (Answer("Yes.", Literal["pong"]),)),
    Operation(
        "POST",
        "/request",
        "Hand in a job.",
        Asks.KEY,
        (Answer("It is on disk, and will end whatever happens.", StatusFrame),),
        fails=(
            errors.REQUEST_INVALID,
            errors.CLIENT_TOO_OLD,
            errors.CLIENT_UNSUPPORTED,
            errors.PYTHON_UNSUPPORTED,
            errors.STORAGE_LOW,
            errors.STORAGE_FULL,
            *errors.BLOBS_AWAY,
            errors.BODY_NOT_MULTIPART,
            errors.BODY_TRUNCATED,
            errors.BODY_TOO_LARGE,
            errors.ENVELOPE_INVALID,
            errors.MODEL_KEY_INVALID,
            errors.MODEL_NOT_SERVED,
            errors.ENV_NOT_ALLOWED,
            errors.SESSION_UNKNOWN,
            errors.PAYLOAD_NOT_ZSTD,
            errors.PAYLOAD_BOMB,
            errors.QUOTA_USED_UP,
            errors.JOB_UNKNOWN,
            errors.KEPT_GONE,
        ),
        parameters=(
            Parameter("nnsight-version", "The client's version.", {"type": "string"}, "header"),
            Parameter("python-version", "The client's Python.", {"type": "string"}, "header"),
            Parameter("idempotency-key", "The same job when it is sent again.", {"type": "string"}, "header"),
        ),
        takes=(
            "multipart/form-data",
            {
                "type": "object",
                "properties": {
                    "data": {
                        "type": "string",
                        "contentMediaType": JSON,
                        "description": "model_key, session_id, compress, env: docs/protocol.md.",
                    },
                    "blob": {"type": "string", "format": "binary", "description": "What nnsight serialised."},
                },
                "required": ["data", "blob"],
            },
        ),
    ),
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
