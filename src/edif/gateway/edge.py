"""What every route shares: the state, base URLs, bounded bodies, errors as JSON."""

import ipaddress
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from edif.blobs.file_blobs import FileBlobs
from edif.core import errors
from edif.core.errors import EdifError, NotFound, OverLimit
from edif.gateway.auth import Authenticator
from edif.gateway.fabric import Fabric
from edif.gateway.hub import HubMirror
from edif.gateway.subscribers import Subscribers
from edif.wire.client_protocol import error_body

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """How the gateway is seen from outside.

    Attributes:
        public_url: base URL for result links; None takes it from each request.
        trusted_proxies: addresses whose ``X-Forwarded-*`` headers are believed.
        public_status: whether ``/status`` and ``/env`` answer without a key.
        status_per_s: answers of these two per second and client address, without a key.
        min_free_bytes: below this much free space new jobs are refused.
    """

    public_url: str | None
    trusted_proxies: tuple[str, ...]
    public_status: bool
    status_per_s: float
    min_free_bytes: int


@dataclass(frozen=True, slots=True)
class Edge:
    """Everything that the routes need; stored as ``app.state.edge``."""

    config: EdgeConfig
    fabric: Fabric
    auth: Authenticator
    subscribers: Subscribers
    blobs: FileBlobs
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
    if _from_trusted_proxy(connection, config.trusted_proxies):
        scheme = headers.get("x-forwarded-proto", scheme).split(",")[0].strip()
        host = headers.get("x-forwarded-host", host).split(",")[0].strip()
        prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    return f"{scheme}://{host}{prefix}"


def _from_trusted_proxy(connection: HTTPConnection, trusted: tuple[str, ...]) -> bool:
    if connection.client is None:
        return False
    try:
        address = ipaddress.ip_address(connection.client.host)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network, strict=False) for network in trusted)


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
    return json_answer(error_body(error), error.kind.http_status)


def answer_unknown_route(request: Request, _: Exception) -> Response:
    unknown = NotFound(errors.ROUTE_UNKNOWN, f"This fabric has no {request.method} {request.url.path[:100]}.")
    return json_answer(error_body(unknown), unknown.kind.http_status)


def answer_crash(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has all of it, the client learns that it is not theirs."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    if not request.scope.get("edif.crash_logged"):  # it passes the inner application and the outer one
        request.scope["edif.crash_logged"] = True
        log.error("gateway.crash", path=request.url.path, exc_info=error)
    failure = EdifError(errors.INTERNAL, "The gateway failed while it answered.")
    return json_answer(error_body(failure), 500)
