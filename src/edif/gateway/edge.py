"""What every route shares: the state, base URLs, bounded bodies, errors as JSON."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from edif.blobs.store import BlobStore
from edif.core import errors
from edif.core.addresses import Network
from edif.core.errors import EdifError, NotFound, OverLimit
from edif.gateway.auth import Authenticator
from edif.gateway.callers import from_trusted
from edif.gateway.fabric import Fabric
from edif.gateway.hub import HubMirror
from edif.gateway.rates import Pace, RateLimiter
from edif.gateway.subscribers import Subscribers
from edif.telemetry.metrics import REFUSED
from edif.wire.client_protocol import error_body

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """How the gateway is seen from outside.

    Attributes:
        public_url: base URL for result links; None takes it from each request.
        trusted_proxies: networks whose ``X-Forwarded-*`` headers are believed.
        public_status: whether ``/status`` and ``/env`` answer without a key.
        min_free_bytes: below this much free space new jobs are refused.
    """

    public_url: str | None
    trusted_proxies: tuple[Network, ...]
    public_status: bool
    min_free_bytes: int


@dataclass(frozen=True, slots=True)
class Edge:
    """Everything that the routes need; stored as ``app.state.edge``."""

    config: EdgeConfig
    fabric: Fabric
    auth: Authenticator
    open_routes: RateLimiter
    refusals: Pace
    subscribers: Subscribers
    blobs: BlobStore
    hub: HubMirror


def edge_of(connection: HTTPConnection) -> Edge:
    edge: Edge = connection.app.state.edge
    return edge


def base_url(connection: HTTPConnection) -> str:
    """The URL under which the client reaches this gateway, without a trailing slash."""
    config = edge_of(connection).config
    if config.public_url is not None:
        return config.public_url
    headers = connection.headers
    scheme = "https" if connection.url.scheme in ("https", "wss") else "http"
    host = headers.get("host", "")
    prefix = ""
    if from_trusted(connection, config.trusted_proxies):
        scheme = _last(headers, "x-forwarded-proto") or scheme
        host = _last(headers, "x-forwarded-host") or host
        prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    return f"{scheme}://{host}{prefix}"


def _last(headers: Headers, name: str) -> str:
    """What the nearest proxy said; what stands before it in the list may be the client's own words."""
    return headers.get(name, "").rpartition(",")[2].strip()


async def bounded_body(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The request's body in chunks.

    Raises:
        OverLimit: it is longer than the limit; what is left of it is not read.
    """
    too_large = OverLimit(
        errors.BODY_TOO_LARGE,
        f"The request is larger than the {limit_bytes / 2**20:.0f} MiB that this fabric takes.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise too_large
        yield chunk


def json_answer(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def answer_error(_: Request, error: Exception) -> Response:
    """An :class:`EdifError` as the client shows it."""
    assert isinstance(error, EdifError)
    return _answer_of(error)


def _answer_of(error: EdifError) -> Response:
    REFUSED.labels(error.code).inc()
    answer = json_answer(error_body(error), error.kind.http_status)
    if isinstance(error, OverLimit) and error.retry_after_s is not None:
        answer.headers["retry-after"] = str(error.retry_after_s)
    return answer


async def refuse_socket(socket: WebSocket, error: EdifError) -> None:
    """Refuse a handshake: it reaches the client as an HTTP answer, with the sentence in its body."""
    await socket.send_denial_response(_answer_of(error))


def answer_unknown_route(request: Request, _: Exception) -> Response:
    unknown = NotFound(errors.ROUTE_UNKNOWN, f"This fabric has no {request.method} {request.url.path[:100]}.")
    return json_answer(error_body(unknown), unknown.kind.http_status)


async def answer_crash(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has all of it, the client learns that it is not theirs."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    if not request.scope.get("edif.crash_logged"):  # it passes the inner application and the outer one
        request.scope["edif.crash_logged"] = True
        log.error("gateway.crash", path=request.url.path, exc_info=error)
    failure = EdifError(errors.INTERNAL, "The gateway failed while it answered.")
    return json_answer(error_body(failure), 500)
